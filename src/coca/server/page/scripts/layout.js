// Positions of tiles: justified rows, or a grid of squares.

/** Aspect ratio of an item that is not loaded or whose size is unknown. */
const DEFAULT_RATIO = 4 / 3;
const MIN_RATIO = 0.4;
const MAX_RATIO = 3;

export function ratioOf(item) {
  if (!item?.width || !item?.height) return item ? 1 : DEFAULT_RATIO;
  return Math.min(MAX_RATIO, Math.max(MIN_RATIO, item.width / item.height));
}

/**
 * Lay out the tiles of a block.
 * @param {number[]} ratios width / height of each tile
 * @param {{width: number, height: number, gap: number, square: boolean}} options `height` is the
 *   wanted height of a row, in CSS pixels
 * @param {boolean} last whether the block ends the wall, so that its last row may be short
 * @returns {{boxes: {x, y, width, height}[], height: number}}
 */
export function layOut(ratios, options, last) {
  if (!ratios.length) return { boxes: [], height: 0 };
  return options.square ? grid(ratios.length, options) : justified(ratios, options, last);
}

/** Number of columns of a grid. */
export const columns = ({ width, height, gap }) =>
  Math.max(2, Math.round((width + gap) / (height + gap)));

/** Number of items of a block: whole rows of the grid, so that blocks join without holes. */
export const blockSize = (options) =>
  options.square ? columns(options) * Math.max(1, Math.round(100 / columns(options))) : 100;

function grid(length, options) {
  const { width, gap } = options;
  const number = columns(options);
  const side = (width - gap * (number - 1)) / number;
  const boxes = Array.from({ length }, (_, at) => ({
    x: (at % number) * (side + gap),
    y: Math.floor(at / number) * (side + gap),
    width: side,
    height: side,
  }));
  return { boxes, height: Math.ceil(length / number) * (side + gap) };
}

function justified(ratios, { width, height, gap }, last) {
  const rows = last ? greedyRows(ratios, width / height) : evenRows(ratios, width / height);
  const boxes = [];
  let y = 0;
  let at = 0;
  for (const size of rows) {
    const row = ratios.slice(at, at + size);
    at += size;
    const free = width - gap * (size - 1);
    const full = free / row.reduce((sum, ratio) => sum + ratio, 0);
    // A short last row keeps the wanted height and ends before the margin.
    const shown = Math.min(full, height * (last && at === ratios.length ? 1 : 1.6));
    let x = 0;
    for (const ratio of row) {
      boxes.push({ x, y, width: ratio * shown, height: shown });
      x += ratio * shown + gap;
    }
    y += shown + gap;
  }
  return { boxes, height: y };
}

/** Split into rows of about equal sums of ratios, so that every row fills the width. */
function evenRows(ratios, rowRatio) {
  const total = ratios.reduce((sum, ratio) => sum + ratio, 0);
  const number = Math.max(1, Math.round(total / rowRatio));
  const rows = [];
  let sum = 0;
  let size = 0;
  for (const ratio of ratios) {
    const limit = ((rows.length + 1) * total) / number;
    if (size && rows.length < number - 1 && sum + ratio / 2 > limit) {
      rows.push(size);
      size = 0;
    }
    sum += ratio;
    size += 1;
  }
  rows.push(size);
  return rows;
}

/** Fill rows one after the other; the last one may stay short. */
function greedyRows(ratios, rowRatio) {
  const rows = [];
  let sum = 0;
  let size = 0;
  for (const ratio of ratios) {
    if (size && sum + ratio / 2 > rowRatio) {
      rows.push(size);
      sum = 0;
      size = 0;
    }
    sum += ratio;
    size += 1;
  }
  rows.push(size);
  return rows;
}
