// Blocks of a result: heights, positions and items of what is loaded; a few hundred in 100,000 items.

import { blockSize, layOut, ratioOf } from "./layout.js";

const DIVIDER_HEIGHT = 68;

/** Items of a result in blocks of one request each; blocks that are not loaded have an estimate. */
export class Blocks {
  constructor(options) {
    this.options = options;
    this.size = blockSize(options);
    this.blocks = [];
    this.length = 0;
    /** Whether `length` is the number of items; else further items may follow. */
    this.complete = false;
    /** Index of the first item after the last match, if it is below the threshold; else null. */
    this.firstWeak = null;
  }

  /** Set the number of items. */
  resize(length, complete) {
    this.length = length;
    this.complete = complete;
    const wanted = Math.ceil(length / this.size);
    while (this.blocks.length < wanted) this.blocks.push({ items: null });
    this.blocks.length = wanted;
    this.#measure();
  }

  /** Store the items of a block; returns by how much its height changed. */
  fill(index, items) {
    const block = this.blocks[index];
    const before = block.height;
    block.items = items;
    // Only the first hits are marked, and words of a caption can put a weak hit before a match.
    if (index === 0) {
      const weak = items.findLastIndex((item) => item.is_match === true) + 1;
      this.firstWeak = items[weak]?.is_match === false ? weak : null;
    }
    this.#layOut(index);
    this.#place();
    return block.height - before;
  }

  get height() {
    const last = this.blocks.at(-1);
    return last ? last.top + last.height : 0;
  }

  item(index) {
    return this.blocks[Math.floor(index / this.size)]?.items?.[index % this.size] ?? null;
  }

  /** Return the position of a tile in the wall. */
  box(index) {
    const block = this.blocks[Math.floor(index / this.size)];
    const box = block?.boxes[index % this.size];
    return box ? { ...box, y: box.y + block.top } : null;
  }

  /** Position of the line above the first item below the threshold; null where there is none. */
  get divider() {
    if (this.firstWeak === null) return null;
    const box = this.box(this.firstWeak);
    return box ? box.y - DIVIDER_HEIGHT : null;
  }

  /** Indices of blocks that overlap a range of the wall, in CSS pixels. */
  overlapping(top, bottom) {
    const found = [];
    for (let at = this.#blockAt(top); at < this.blocks.length; at += 1) {
      if (this.blocks[at].top > bottom) break;
      found.push(at);
    }
    return found;
  }

  /** Indices of tiles that overlap a range of the wall, in CSS pixels. */
  visible(top, bottom) {
    const found = [];
    for (const at of this.overlapping(top, bottom)) {
      const block = this.blocks[at];
      block.boxes.forEach((box, position) => {
        const y = block.top + box.y;
        if (y < bottom && y + box.height > top) found.push(at * this.size + position);
      });
    }
    return found;
  }

  /** Index of the tile in the next row (`step` 1) or the one above (-1) that is nearest. */
  inNextRow(index, step) {
    const start = this.box(index);
    if (!start) return index;
    const center = start.x + start.width / 2;
    let best = index;
    let row = null;
    let distance = Infinity;
    for (let at = index + step; at >= 0 && at < this.length; at += step) {
      const box = this.box(at);
      if (!box) break;
      if (Math.abs(box.y - start.y) < 1) continue;
      row ??= box.y;
      if (Math.abs(box.y - row) >= 1) break;
      const away = Math.abs(box.x + box.width / 2 - center);
      if (away < distance) [best, distance] = [at, away];
    }
    return best;
  }

  #blockAt(top) {
    let [low, high] = [0, this.blocks.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const block = this.blocks[middle];
      if (block.top + block.height < top) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #measure() {
    let estimate = null;
    this.blocks.forEach((block, at) => {
      const full = at < this.blocks.length - 1;
      if (block.items) this.#layOut(at);
      else if (full && estimate) Object.assign(block, estimate);
      else {
        this.#layOut(at);
        if (full) estimate = { boxes: block.boxes, height: block.height };
      }
    });
    this.#place();
  }

  #layOut(at) {
    const block = this.blocks[at];
    const start = at * this.size;
    const length = block.items ? block.items.length : Math.min(this.size, this.length - start);
    const ratios = Array.from({ length }, (_, n) => ratioOf(block.items?.[n]));
    const last = at === this.blocks.length - 1;
    const weak = this.firstWeak === null ? -1 : this.firstWeak - start;
    if (!block.items || weak < 0 || weak >= length) {
      Object.assign(block, layOut(ratios, this.options, last));
      return;
    }
    const strong = layOut(ratios.slice(0, weak), this.options, true);
    const rest = layOut(ratios.slice(weak), this.options, last);
    const shift = strong.height + DIVIDER_HEIGHT;
    block.boxes = [...strong.boxes, ...rest.boxes.map((box) => ({ ...box, y: box.y + shift }))];
    block.height = shift + rest.height;
  }

  #place() {
    let top = 0;
    for (const block of this.blocks) {
      block.top = top;
      top += block.height;
    }
  }
}
