// Wall of images with virtual scrolling: only tiles near the viewport are in the document.

import { BlockRequests } from "./block_requests.js";
import { Blocks } from "./blocks.js";
import { $, h, perFrame } from "./dom.js";
import { letterOf } from "./keyboard.js";
import { t } from "./language.js";
import { Headings, sectionsOf, unlikelyOf } from "./sections.js";
import { Tiles } from "./tiles.js";

const OVERSCAN = 700;
const REQUEST_DELAY_MS = 60;
const GAP = 6;
/** Items that "select all" selects at most, and of one request. */
const MAX_SELECTED = 10_000;
const MAX_PAGE = 1000;

/** Height of what stays of the header while the page scrolls, in CSS pixels. */
function headerHeight() {
  const header = $(".header");
  return header.offsetHeight + parseFloat(getComputedStyle(header).top);
}

export class Wall extends EventTarget {
  #source = null;
  #tiles;
  #requests = new BlockRequests({
    onPage: (at, page) => this.#received(at, page),
    onFailure: (error, at) => this.#fail(error, at),
    onEnd: () => this.#request(),
  });
  #timer = 0;
  /** Where the page was at the last timer, and whether it has scrolled a screen since the one before. */
  #place = 0;
  #fast = false;
  #current = 0;
  #anchor = null;
  #focusing = false;
  #headings;
  /** Request of the first items of the next result, while the old one is shown. */
  #next = null;
  /** Pixels around the viewport in which tiles are drawn: at first none, for a quick first image. */
  #margin = 0;
  /** Index that is shown at the top once its block is there. */
  #goal = 0;

  /**
   * @param {HTMLElement} root
   * @param {any} options `actions` of tiles, `addressOf(item, index)`, `asked()` (text of the
   *   query), `selection`, and `rowHeight()`
   */
  constructor(root, { actions, addressOf, asked, selection, rowHeight }) {
    super();
    this.root = root;
    this.selection = selection;
    this.rowHeight = rowHeight;
    this.list = h("ul", { class: "wall-list", role: "list", "aria-label": t("Images") });
    root.append(this.list);
    this.#headings = new Headings(this.list);
    const own = { ...actions, select: (item, range) => this.select(item, range) };
    this.#tiles = new Tiles(this.list, { actions: own, addressOf, asked, selection });
    this.blocks = new Blocks(this.#layoutOptions());
    addEventListener("scroll", perFrame(() => this.#draw()), { passive: true });
    new ResizeObserver(perFrame(() => this.#resized())).observe(root);
    selection.addEventListener("change", () => this.#tiles.mark(this.blocks));
    this.list.addEventListener("focusin", (event) => this.#focused(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * Show a result; the old one stays until the first items of the new one are there.
   * @param {(offset: number, limit: number, signal?: AbortSignal) => Promise<any>} source reads items
   *   from an offset; `total` is null where it is unknown
   * @param {{length?: number, at?: number}} options `length`: expected number of items, until the
   *   first response; `at`: index of the item to begin at
   */
  async show(source, { length = 0, at = 0 } = {}) {
    this.#next?.abort();
    const next = new AbortController();
    this.#next = next;
    let first = null;
    if (this.loaded().length) {
      this.root.classList.add("stale");
      try {
        first = await source(0, this.blocks.size, next.signal);
      } catch (error) {
        if (!next.signal.aborted) this.#fail(error, 0);
      }
      if (!first || next.signal.aborted) return;
    }
    this.clear();
    this.#source = source;
    this.blocks.resize(Math.max(length || this.blocks.size, at && at + this.blocks.size), false);
    [this.#goal, this.#current] = [at, at];
    if (at) this.#reveal(at, "start");
    else scrollTo(0, 0);
    if (first) this.#received(0, first);
    else this.#draw();
    this.#request();
  }

  /** Index of the first image that the reader sees; null while another result is awaited. */
  get place() {
    return this.#source && !this.root.classList.contains("stale") ? this.#firstVisible() : null;
  }

  /** Remove all tiles and requests. */
  clear() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#next?.abort();
    [this.#goal, this.#margin] = [0, 0];
    this.root.classList.remove("stale");
    this.#requests.clear();
    this.#tiles.clear();
    this.#headings.draw([], this.blocks);
    this.#source = null;
    this.#current = 0;
    this.#anchor = null;
    this.#focusing = false;
    this.blocks = new Blocks(this.#layoutOptions());
    this.list.style.height = "0";
  }

  /** Lay out again after a change of the tile size or the window. */
  relayout() {
    if (!this.#source) return;
    const first = this.#firstVisible();
    this.#tiles.clear();
    this.#requests.clear();
    this.blocks = this.blocks.relaid(this.#layoutOptions());
    if (first > 0) this.#reveal(first, "start");
    this.#draw();
    this.#request();
  }

  item(index) {
    return this.blocks.item(index);
  }

  /** Draw the tile of an item again, after the item has changed. */
  redraw(id) {
    this.#tiles.drop((_, element) => element.dataset.id === id);
    this.#draw();
  }

  /** Index of a loaded item; -1 if it is not loaded. */
  indexOf(id) {
    for (const [at, block] of this.blocks.blocks.entries()) {
      const found = block.items?.findIndex((item) => item.id === id) ?? -1;
      if (found >= 0) return at * this.blocks.size + found;
    }
    return -1;
  }

  /** Focus the tile of an index, and scroll to it. */
  focus(index) {
    if (index < 0 || index >= this.blocks.length) return;
    this.#current = index;
    this.#reveal(index, "nearest");
    this.#draw();
    const link = this.#tiles.get(index)?.querySelector(".tile-link");
    // The tile of an item that is not loaded gets the focus later.
    this.#focusing = !link;
    link?.focus({ preventScroll: true });
  }

  focusCurrent() {
    this.focus(this.#current);
  }

  /** Scroll to the tile of an index, and request the items around it. */
  reveal(index) {
    this.#reveal(index, "nearest");
    this.#draw();
  }

  /** Toggle an item; with `range`, select all items from the last toggled one. */
  select(item, range) {
    const index = this.indexOf(item.id);
    if (range && this.#anchor !== null && index >= 0) {
      const [from, to] = [Math.min(this.#anchor, index), Math.max(this.#anchor, index)];
      const items = [];
      for (let at = from; at <= to; at += 1) {
        const one = this.blocks.item(at);
        if (one) items.push(one);
      }
      this.selection.add(items);
    } else this.selection.toggle(item);
    this.#anchor = index >= 0 ? index : null;
  }

  /** Number of items that `selectAll` selects; 0 if unknown. */
  get selectable() {
    const { complete, length } = this.blocks;
    return complete ? Math.min(MAX_SELECTED, length) : 0;
  }

  /** Select all items of the result, also those that are not loaded. */
  async selectAll() {
    const [source, wanted] = [this.#source, this.selectable];
    for (let at = 0; at < wanted; at += MAX_PAGE) {
      const { hits } = await source(at, Math.min(MAX_PAGE, wanted - at));
      if (source !== this.#source) return;
      this.selection.add(hits);
    }
  }

  /** All items that are loaded. */
  loaded() {
    return this.blocks.blocks.flatMap((block) => block.items ?? []);
  }

  #layoutOptions() {
    return { width: Math.max(1, this.root.clientWidth), gap: GAP, height: this.rowHeight() };
  }

  #resized() {
    const width = Math.max(1, this.root.clientWidth);
    if (Math.abs(width - this.blocks.options.width) >= 1) this.relayout();
    else this.#draw();
  }

  get #top() {
    return this.root.getBoundingClientRect().top;
  }

  #viewport(margin) {
    const top = -this.#top;
    return [top - margin, top + innerHeight + margin];
  }

  #firstVisible() {
    const header = headerHeight();
    return this.blocks.visible(-this.#top + header, -this.#top + innerHeight)[0] ?? 0;
  }

  #reveal(index, where) {
    const box = this.blocks.box(index);
    if (!box) return;
    this.list.style.height = `${this.blocks.height}px`;
    const header = headerHeight() + GAP * 2;
    const y = this.#top + box.y;
    if (where === "start" || y < header) scrollBy(0, y - header);
    else if (y + box.height > innerHeight) scrollBy(0, y + box.height - innerHeight + GAP * 2);
  }

  #draw() {
    if (!this.#source) return;
    this.list.style.height = `${this.blocks.height}px`;
    const wanted = new Set(this.blocks.visible(...this.#viewport(this.#margin)));
    // A focused tile stays, or the focus would be lost.
    this.#tiles.drop((index, element) => !wanted.has(index) && !element.contains(document.activeElement));
    for (const index of wanted) this.#tiles.draw(index, this.blocks, this.#current);
    this.#headings.draw(this.blocks.headings(...this.#viewport(this.#margin)), this.blocks);
    if (!this.#timer) {
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        this.#fast = Math.abs(scrollY - this.#place) > innerHeight;
        this.#place = scrollY;
        if (this.#fast) this.#draw();
        this.#request();
        if (this.#margin || !this.#source) return;
        this.#margin = OVERSCAN;
        this.#draw();
      }, REQUEST_DELAY_MS);
    }
  }

  #request() {
    // What passes by too fast to be seen is not requested.
    if (!this.#source || this.#fast) return;
    // The first block also describes the result.
    const near = new Set([...this.blocks.overlapping(...this.#viewport(OVERSCAN * 1.5)), 0]);
    this.#requests.start(near, this.blocks, this.#source);
  }

  #fail(error, at) {
    if (at === 0) this.#source = null;
    this.dispatchEvent(new CustomEvent("failed", { detail: { error, first: at === 0 } }));
  }

  #received(at, { hits, total, days }) {
    if (at === 0 && days) this.blocks.sections = sectionsOf(days);
    const end = at * this.blocks.size + hits.length;
    const block = this.blocks.blocks[at];
    // A block may be gone once the number of items is known.
    if (!block) return;
    const above = block.top + block.height + this.#top < 0;
    if (total !== null && total !== undefined) {
      if (total !== this.blocks.length || !this.blocks.complete) this.blocks.resize(total, true);
    } else if (hits.length < this.blocks.size) this.blocks.resize(end, true);
    else if (end >= this.blocks.length) this.blocks.resize(end + this.blocks.size, false);
    if (hits.length && at < this.blocks.blocks.length) {
      const grown = this.blocks.fill(at, hits);
      if (total === null) this.blocks.divide(unlikelyOf(this.blocks.first()));
      this.list.style.height = `${this.blocks.height}px`;
      // What the reader sees stays in place when a block above gets its height.
      if (above) scrollBy(0, grown);
    }
    if (this.#goal && this.blocks.item(this.#goal)) {
      this.#reveal(this.#goal, "start");
      this.#goal = 0;
    }
    this.#tiles.drop((index, element) => {
      const stale = element.classList.contains("tile-empty");
      return index >= this.blocks.length || (stale && Math.floor(index / this.blocks.size) === at);
    });
    this.#draw();
    if (this.#focusing && this.blocks.item(this.#current)) this.focus(this.#current);
    this.dispatchEvent(new CustomEvent("received", { detail: { at } }));
  }

  #focused(event) {
    const element = event.target.closest(".tile");
    if (!element) return;
    this.#current = Number(element.dataset.index);
    this.#tiles.focusable(this.#current);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.blocks.length - 1;
    const current = this.#current;
    const targets = {
      ArrowLeft: () => Math.max(0, current - 1),
      ArrowRight: () => Math.min(last, current + 1),
      ArrowUp: () => this.blocks.inNextRow(current, -1),
      ArrowDown: () => this.blocks.inNextRow(current, 1),
      Home: () => 0,
      End: () => last,
    };
    if (event.key in targets) {
      event.preventDefault();
      this.focus(targets[event.key]());
    } else if (letterOf(event) === "x" || (event.key === " " && event.target.tagName === "A")) {
      const item = this.blocks.item(current);
      event.preventDefault();
      if (item) this.select(item, event.shiftKey);
    }
  }
}
