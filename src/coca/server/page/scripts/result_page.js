// A page of a result: 100 tiles in justified rows, in the document while it is near the viewport.

import { h } from "./dom.js";
import { layOut, ratioOf } from "./layout.js";
import { headingOf } from "./sections.js";
import { discard } from "./tile.js";

export const PAGE_SIZE = 100;
/** Height of the heading of a section, in CSS pixels. */
export const HEADING_HEIGHT = 46;

export class ResultPage {
  /** Items of the page; null until they are loaded. */
  items = null;
  /** Position of each tile in the page, as {x, y, width, height} in CSS pixels. */
  boxes = [];
  /** Sections that start in the page, each with the position `y` of its heading. */
  sections = [];
  /** Tiles in the document, in the order of the items. */
  tiles = [];
  height = 0;
  /** Position of the page in the wall. */
  top = 0;
  isNear = false;
  /** Controller of the running request; null without one. */
  request = null;
  #headings = [];

  /**
   * @param {number} start index of the first item in the result
   * @param {{build?: Function, itemsOf?: Function}} options `build(item, index, box)` a tile; `itemsOf(section)`:
   *   its items that are loaded
   */
  constructor(start, { build, itemsOf } = {}) {
    this.start = start;
    this.build = build;
    this.itemsOf = itemsOf;
    this.element = h("ul", { class: "wall-page", role: "list", data: { start } });
  }

  /**
   * Lay out the tiles, of default sizes until the items are loaded.
   * @param {number} length number of items until they are loaded
   * @param {{start: number, title: string}[]} sections those that start in the page
   * @param {{width: number, height: number, gap: number}} options see `layOut`
   * @param {boolean} ends whether the last row may be short
   */
  layOut(length, sections, options, ends) {
    const ratios = Array.from({ length: this.items?.length ?? length }, (_, n) => ratioOf(this.items?.[n]));
    const starts = sections.map((section) => section.start - this.start).filter((at) => at < ratios.length);
    this.boxes = [];
    this.sections = [];
    this.height = 0;
    [...new Set([0, ...starts])].forEach((from, n, all) => {
      if (starts.includes(from)) {
        this.sections.push({ ...sections[starts.indexOf(from)], y: this.height });
        this.height += HEADING_HEIGHT;
      }
      const part = layOut(ratios.slice(from, all[n + 1]), options, ends || n + 1 < all.length);
      this.boxes.push(...part.boxes.map((box) => ({ ...box, y: box.y + this.height })));
      this.height += part.height;
    });
    this.element.style.height = `${this.height}px`;
  }

  /** Put the tiles into the document, in place of older ones. */
  draw() {
    this.clear();
    this.tiles = this.items.map((_, n) => this.#tile(n));
    this.element.append(...this.tiles);
    this.place();
  }

  /** Build the tile of one position again. */
  redraw(n) {
    const old = this.tiles[n];
    if (!old) return;
    this.tiles[n] = this.#tile(n);
    old.before(this.tiles[n]);
    discard(old);
    this.place();
  }

  #tile(n) {
    return this.build(this.items[n], this.start + n, this.boxes[n]);
  }

  /** Move the tiles to their boxes, and each heading before the first tile of its section, as screen readers expect. */
  place() {
    this.tiles.forEach((tile, n) => {
      const { x, y, width, height } = this.boxes[n];
      tile.style.transform = `translate(${x}px, ${y}px)`;
      tile.style.width = `${width}px`;
      tile.style.height = `${height}px`;
    });
    for (const heading of this.#headings) heading.remove();
    this.#headings = this.tiles.length ? this.sections.map((section) => headingOf(section, this.itemsOf(section))) : [];
    this.#headings.forEach((heading, n) => this.tiles[this.sections[n].start - this.start].before(heading));
  }

  /** End the running request. */
  cancel() {
    this.request?.abort();
    this.request = null;
  }

  /** Remove the tiles from the document, and stop loading their images. */
  clear() {
    for (const tile of this.tiles) discard(tile);
    this.tiles = [];
    this.place();
  }
}
