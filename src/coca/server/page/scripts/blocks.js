// Blocks of a result: heights, positions and items of what is loaded; a few hundred in 100,000 items.

import { layOut, ratioOf } from "./layout.js";

/** Number of items of a block. */
const SIZE = 100;
const HEADING_HEIGHT = 46;

/** Items of a result in blocks of one request each; blocks that are not loaded have an estimate. */
export class Blocks {
  constructor(options) {
    this.options = options;
    this.size = SIZE;
    this.blocks = [];
    this.length = 0;
    /** Whether `length` is the number of items; else further items may follow. */
    this.complete = false;
    /** Sections with a heading each, as {start, end, title} in the order of the items. */
    this.sections = [];
  }

  /** Build the same blocks with another layout. */
  relaid(options) {
    const blocks = new Blocks(options);
    blocks.sections = this.sections;
    blocks.resize(this.length, this.complete);
    this.blocks.forEach(({ items }, at) => items && blocks.fill(at, items));
    return blocks;
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

  /** Set the sections, and lay out again where they change. */
  divide(sections) {
    if (sections[0]?.start === this.sections[0]?.start) return;
    this.sections = sections;
    this.#measure();
  }

  /** Store the items of a block; returns by how much its height changed. */
  fill(index, items) {
    const block = this.blocks[index];
    const before = block.height;
    block.items = items;
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

  /** Items from the first one up to one that is not loaded. */
  first() {
    const end = this.blocks.findIndex(({ items }) => !items);
    return this.blocks.slice(0, end < 0 ? undefined : end).flatMap(({ items }) => items);
  }

  /** Items of a section that are loaded. */
  itemsOf({ start, end }) {
    const blocks = this.blocks.slice(Math.floor(start / this.size), Math.ceil(end / this.size));
    const first = start - (start % this.size);
    return blocks.flatMap(({ items }, at) =>
      (items ?? []).slice(Math.max(0, start - first - at * this.size), Math.max(0, end - first - at * this.size)));
  }

  /** Return the position of a tile in the wall. */
  box(index) {
    const block = this.blocks[Math.floor(index / this.size)];
    const box = block?.boxes[index % this.size];
    return box ? { ...box, y: box.y + block.top } : null;
  }

  /** Sections whose heading overlaps a range of the wall, each with its place `y`. */
  headings(top, bottom) {
    const [first, last] = [this.#blockAt(top), this.#blockAt(bottom)].map((at) => at * this.size);
    const near = this.#sectionsIn(first, last + this.size);
    const placed = near.map((section) => ({ ...section, y: this.headingAt(section) }));
    return placed.filter(({ y }) => y !== null && y < bottom && y + HEADING_HEIGHT > top);
  }

  /** Position of the heading of a section; null outside of the result. */
  headingAt({ start }) {
    const box = this.box(start);
    return box ? box.y - HEADING_HEIGHT : null;
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
    return firstOf(this.blocks, (block) => block.top + block.height >= top);
  }

  /** Sections that start from one index to another. */
  #sectionsIn(from, to) {
    const first = firstOf(this.sections, ({ start }) => start >= from);
    return this.sections.slice(first, firstOf(this.sections, ({ start }) => start > to));
  }

  #measure() {
    let estimate = null;
    this.blocks.forEach((block, at) => {
      const full = at < this.blocks.length - 1 && !this.#breaks(at).length;
      if (block.items) this.#layOut(at);
      else if (full && estimate) Object.assign(block, estimate);
      else {
        this.#layOut(at);
        if (full) estimate = { boxes: block.boxes, height: block.height };
      }
    });
    this.#place();
  }

  /** Places in a block before which a heading has its height, and at its end. */
  #breaks(at) {
    const start = at * this.size;
    return this.#sectionsIn(start, start + this.size)
      .map((section) => ({ before: section.start - start, height: HEADING_HEIGHT }));
  }

  #layOut(at) {
    const block = this.blocks[at];
    const start = at * this.size;
    const length = block.items ? block.items.length : Math.min(this.size, this.length - start);
    const ratios = Array.from({ length }, (_, n) => ratioOf(block.items?.[n]));
    const ends = at === this.blocks.length - 1;
    block.boxes = [];
    block.height = 0;
    const breaks = this.#breaks(at);
    const starts = breaks.filter(({ before }) => before < length);
    if (starts[0]?.before !== 0) starts.unshift({ before: 0, height: 0 });
    starts.forEach(({ before, height }, n) => {
      const to = starts[n + 1]?.before ?? length;
      // The row before a heading may be short.
      const last = n + 1 < starts.length || ends || breaks.some((one) => one.before === to);
      const part = layOut(ratios.slice(before, to), this.options, last);
      const top = block.height + height;
      block.boxes.push(...part.boxes.map((box) => ({ ...box, y: box.y + top })));
      block.height = top + part.height;
    });
  }

  #place() {
    let top = 0;
    for (const block of this.blocks) {
      block.top = top;
      top += block.height;
    }
  }
}

/** Index of the first of sorted elements that passes a test; their number where none does. */
function firstOf(sorted, test) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(sorted[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
