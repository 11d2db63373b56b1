// Positions of tiles in justified rows.

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
 * @param {{width: number, height: number, gap: number}} options `height` is the wanted height of a
 *   row, in CSS pixels
 * @param {boolean} last whether the block ends the wall, so that its last row may be short
 * @returns {{boxes: {x, y, width, height}[], height: number}}
 */
export function layOut(ratios, { width, height, gap }, last) {
  if (!ratios.length) return { boxes: [], height: 0 };
  const rows = rowsOf(ratios, width / height, last);
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

/** Split into rows of about equal sums of ratios; of the last block, the last row may be short. */
function rowsOf(ratios, rowRatio, last) {
  const total = ratios.reduce((sum, ratio) => sum + ratio, 0);
  const number = last ? Infinity : Math.max(1, Math.round(total / rowRatio));
  const share = last ? rowRatio : total / number;
  const rows = [];
  let [sum, size] = [0, 0];
  for (const ratio of ratios) {
    if (size && rows.length < number - 1 && sum + ratio / 2 > (rows.length + 1) * share) {
      rows.push(size);
      size = 0;
    }
    sum += ratio;
    size += 1;
  }
  rows.push(size);
  return rows;
}
