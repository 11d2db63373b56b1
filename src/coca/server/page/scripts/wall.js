// Wall of images: pages of 100 tiles, which the browser lays out near the viewport only.

import { $, h } from "./dom.js";
import { letterOf } from "./keyboard.js";
import { t } from "./language.js";
import { HEADING_HEIGHT, PAGE_SIZE, ResultPage } from "./result_page.js";
import { tile } from "./tile.js";

/** Distance from the viewport, in CSS pixels, at which a page is requested and drawn. */
const MARGIN = 1500;
/** Distance at which an image is loaded. */
const IMAGE_MARGIN = 700;
const REQUEST_DELAY_MS = 60;
const RETRY_MS = 3000;
const GAP = 6;
/** Items of a section whose places are in its heading. */
const MAX_PLACED = 300;
/** Items that "select all" selects at most, and of one request. */
const MAX_SELECTED = 10_000;
const MAX_REQUESTED = 1000;

/** Height of what stays of the header while the page scrolls, in CSS pixels. */
function headerHeight() {
  const header = $(".header");
  return header.offsetHeight + parseFloat(getComputedStyle(header).top);
}

export class Wall extends EventTarget {
  actions; addressOf; asked; selection; rowHeight;
  /** @type {ResultPage[]} */
  pages = [];
  length = 0;
  /** Whether `length` is the number of items; else further items may follow. */
  complete = false;
  /** Sections with a heading each, as {start, end, title} in the order of the items. */
  sections = [];
  #source = null;
  #timer = 0;
  #width = 0;
  /** Index of the tile that the Tab key reaches. */
  #current = 0;
  /** Whether the tile gets the focus once it is loaded. */
  #focusing = false;
  #anchor = null;
  /** Request of the first items of the next result, while the old one is shown. */
  #next = null;
  /** Index that is shown at the top once it is loaded. */
  #goal = 0;

  /**
   * @param {HTMLElement} root
   * @param {any} options `actions` of tiles, `addressOf(item, index)`, `asked()` (text of the
   *   query), `selection`, and `rowHeight()`
   */
  constructor(root, { actions, addressOf, asked, selection, rowHeight }) {
    super();
    this.root = root;
    Object.assign(this, { addressOf, asked, selection, rowHeight });
    this.list = h("div", { class: "wall-list", role: "group", "aria-label": t("Images") });
    root.append(this.list);
    this.actions = { ...actions, select: (item, range) => this.select(item, range) };
    this.observer = new IntersectionObserver((entries) => this.#moved(entries), { rootMargin: `${MARGIN}px 0px` });
    const approach = (entries) => entries.forEach(({ target, isIntersecting }) => target.approach(isIntersecting));
    this.images = new IntersectionObserver(approach, { rootMargin: `${IMAGE_MARGIN}px 0px` });
    const resized = () => this.root.clientWidth !== this.#width && this.relayout();
    new ResizeObserver(() => requestAnimationFrame(resized)).observe(root);
    selection.addEventListener("change", () => this.pages.forEach(({ tiles, items }) => tiles.forEach((one, n) => this.#mark(one, items[n]))));
    this.list.addEventListener("focusin", ({ target }) => target.closest(".tile") && this.#setCurrent(Number(target.closest(".tile").dataset.index)));
    this.list.addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * Show a result; the old one stays until the first items of the new one are there.
   * @param {(offset: number, limit: number, signal?: AbortSignal) => Promise<any>} source reads items
   *   from an offset; `total` is null where it is unknown, and the first ones have `headings`, the sections
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
        first = await source(0, PAGE_SIZE, next.signal);
      } catch (error) {
        if (!next.signal.aborted) this.#fail(error, 0);
      }
      if (!first || next.signal.aborted) return;
    }
    // A result that is read again keeps the focused tile.
    const focused = this.list.contains(document.activeElement) ? this.#current : null;
    this.clear();
    this.#source = source;
    this.#resize(Math.max(length || PAGE_SIZE, at && at + PAGE_SIZE), false);
    [this.#goal, this.#current, this.#focusing] = [at, focused ?? at, focused !== null];
    if (at) this.reveal(at, "start");
    else scrollTo(0, 0);
    // The first page also describes the result.
    this.pages[0].isNear = true;
    if (first) this.#received(this.pages[0], first);
    else this.#load(this.pages[0]);
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
    this.#resize(0, false);
    this.sections = [];
    this.root.classList.remove("stale");
    [this.#source, this.#anchor, this.#current, this.#goal, this.#focusing] = [null, null, 0, 0, false];
  }

  /** Lay out again after a change of the tile size or the window. */
  relayout() {
    const first = this.#firstVisible();
    this.#layOut();
    for (const page of this.pages) if (page.tiles.length) page.draw();
    if (first > 0) this.reveal(first, "start");
  }

  item(index) {
    return this.#pageOf(index)?.items?.[index % PAGE_SIZE] ?? null;
  }

  /** Draw the tile of an item again, after the item has changed. */
  redraw(id) {
    const index = this.indexOf(id);
    this.#pageOf(index)?.redraw(index % PAGE_SIZE);
  }

  /** Index of a loaded item; -1 if it is not loaded. */
  indexOf(id) {
    for (const { start, items } of this.pages) {
      const found = items?.findIndex((item) => item.id === id) ?? -1;
      if (found >= 0) return start + found;
    }
    return -1;
  }

  /** Focus the tile of an index, and scroll to it; `where`: see `reveal`. */
  focus(index, where = "nearest") {
    const page = this.#pageOf(index);
    if (!page) return;
    this.#setCurrent(index);
    this.reveal(index, where);
    if (page.items && !page.tiles.length) page.draw();
    const link = page.tiles[index % PAGE_SIZE]?.querySelector(".tile-link");
    this.#focusing = !link;
    link?.focus({ preventScroll: true });
  }

  focusCurrent() {
    this.focus(this.#current);
  }

  /** Scroll to the tile of an index, with its heading; `where`: "start" or "nearest". */
  reveal(index, where = "nearest") {
    const box = this.#box(index);
    if (!box) return;
    const isFirst = this.sections.some(({ start }) => start === index);
    const header = headerHeight() + (isFirst ? HEADING_HEIGHT : GAP * 2);
    const y = this.#top + box.y;
    if (where === "start" || y < header) scrollBy(0, y - header);
    else if (y + box.height > innerHeight) scrollBy(0, y + box.height - innerHeight + GAP * 2);
  }

  /** Toggle an item; with `range`, select all items from the last toggled one. */
  select(item, range) {
    const index = this.indexOf(item.id);
    if (range && this.#anchor !== null && index >= 0) {
      const [from, to] = [Math.min(this.#anchor, index), Math.max(this.#anchor, index)];
      this.selection.add(this.#itemsOf({ start: from, end: to + 1 }));
    } else this.selection.toggle(item);
    this.#anchor = index >= 0 ? index : null;
  }

  /** Number of items that `selectAll` selects; 0 if unknown. */
  get selectable() {
    return this.complete ? Math.min(MAX_SELECTED, this.length) : 0;
  }

  /** Select all items of the result, also those that are not loaded. */
  async selectAll() {
    const [source, wanted] = [this.#source, this.selectable];
    for (let at = 0; at < wanted; at += MAX_REQUESTED) {
      const { hits } = await source(at, Math.min(MAX_REQUESTED, wanted - at));
      if (source !== this.#source) return;
      this.selection.add(hits);
    }
  }

  /** All items that are loaded. */
  loaded() {
    return this.pages.flatMap(({ items }) => items ?? []);
  }

  get #top() {
    return this.list.getBoundingClientRect().top;
  }

  #pageOf(index) {
    return this.pages[Math.floor(index / PAGE_SIZE)];
  }

  /** Position of a tile in the wall. */
  #box(index) {
    const page = this.#pageOf(index);
    const box = page?.boxes[index % PAGE_SIZE];
    return box && { ...box, y: box.y + page.top };
  }

  /** Items of a range that are loaded. */
  #itemsOf({ start, end }) {
    const pages = this.pages.slice(Math.floor(start / PAGE_SIZE), Math.ceil(end / PAGE_SIZE));
    return pages.flatMap((page) => (page.items ?? []).slice(Math.max(0, start - page.start), end - page.start));
  }

  #firstVisible() {
    const edge = headerHeight() - this.#top;
    const page = this.pages.find(({ top, height }) => top + height > edge);
    return page ? page.start + Math.max(0, page.boxes.findIndex(({ y, height }) => page.top + y + height > edge)) : 0;
  }

  /** Set the number of items. */
  #resize(length, complete) {
    Object.assign(this, { length, complete });
    for (const page of this.pages.splice(Math.ceil(length / PAGE_SIZE))) {
      page.cancel();
      page.clear();
      page.element.remove();
      this.observer.unobserve(page.element);
    }
    for (let start = this.pages.length * PAGE_SIZE; start < length; start += PAGE_SIZE) {
      const page = new ResultPage(start, {
        build: (item, index, box) => this.#build(item, index, box),
        itemsOf: (section) => this.#itemsOf({ ...section, end: Math.min(section.end, section.start + MAX_PLACED) }),
      });
      this.pages.push(page);
      this.list.append(page.element);
      this.observer.observe(page.element);
    }
    this.#layOut();
  }

  #layOut() {
    this.#width = this.root.clientWidth;
    const options = { width: Math.max(1, this.#width), gap: GAP, height: this.rowHeight() };
    const sections = [...this.sections];
    let top = 0;
    for (const page of this.pages) {
      const end = page.start + PAGE_SIZE;
      const count = sections.findIndex(({ start }) => start >= end);
      const own = sections.splice(0, count < 0 ? sections.length : count);
      page.layOut(Math.min(PAGE_SIZE, this.length - page.start), own, options, end >= this.length || sections[0]?.start === end);
      page.top = top;
      top += page.height;
      if (page.tiles.length) page.place();
      for (const element of page.tiles) this.#setSize(element);
    }
  }

  #build(item, index, box) {
    const { actions, addressOf, asked } = this;
    const element = tile(item, { ...box, address: addressOf(item, index), asked: asked(), actions });
    element.dataset.index = index;
    element.setAttribute("aria-posinset", index + 1);
    this.#setSize(element);
    this.#mark(element, item);
    if (index === this.#current) setTabIndex(element, 0);
    this.images.observe(element);
    return element;
  }

  #setSize(element) {
    element.setAttribute("aria-setsize", String(this.complete ? this.length : -1));
  }

  #mark(element, item) {
    const selected = this.selection.has(item.id);
    element.classList.toggle("tile-selected", selected);
    element.querySelector("input").checked = selected;
  }

  /** Let the Tab key reach one tile alone. */
  #setCurrent(index) {
    for (const [at, value] of [[this.#current, -1], [index, 0]]) {
      const element = this.#pageOf(at)?.tiles[at % PAGE_SIZE];
      if (element) setTabIndex(element, value);
    }
    this.#current = index;
  }

  /** Draw the pages that come near the viewport, and remove the tiles of those that leave. */
  #moved(entries) {
    for (const { target, isIntersecting } of entries) {
      const page = this.#pageOf(Number(target.dataset.start));
      if (page?.element !== target) continue;
      page.isNear = isIntersecting;
      if (isIntersecting) {
        if (page.items && !page.tiles.length) page.draw();
        else if (!page.items) this.#wait();
      } else if (!target.contains(document.activeElement)) {
        // A focused tile stays, or the focus would be lost.
        page.clear();
        if (page.start) page.cancel();
      }
    }
  }

  /** Request the pages near the viewport, except while they pass by too fast to be seen. */
  #wait() {
    if (this.#timer) return;
    const from = scrollY;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      if (Math.abs(scrollY - from) > innerHeight) this.#wait();
      else for (const page of this.pages) if (page.isNear) this.#load(page);
    }, REQUEST_DELAY_MS);
  }

  async #load(page) {
    if (page.items || page.request || !this.#source) return;
    const request = new AbortController();
    page.request = request;
    try {
      const response = await this.#source(page.start, PAGE_SIZE, request.signal);
      if (request.signal.aborted) return;
      page.request = null;
      this.#received(page, response);
    } catch (error) {
      if (request.signal.aborted) return;
      page.request = null;
      this.#fail(error, page.start);
      // Further items are requested again, when the service may be back.
      setTimeout(() => page.isNear && this.pages.includes(page) && this.#load(page), RETRY_MS);
    }
  }

  #fail(error, start) {
    if (start === 0) this.#source = null;
    this.dispatchEvent(new CustomEvent("failed", { detail: { error, first: start === 0 } }));
  }

  #received(page, { hits, total, headings }) {
    const seen = this.#firstVisible();
    const before = this.#box(seen)?.y ?? 0;
    page.items = hits;
    if (page.start === 0) this.sections = headings ?? [];
    const end = page.start + hits.length;
    if (total !== null && total !== undefined) this.#resize(total, true);
    else if (hits.length < PAGE_SIZE) this.#resize(end, true);
    else this.#resize(Math.max(this.length, end + PAGE_SIZE), false);
    if (this.#goal && this.item(this.#goal)) {
      this.reveal(this.#goal, "start");
      this.#goal = 0;
      // What the reader sees stays in place when a page above gets its height.
    } else if (seen) scrollBy(0, (this.#box(seen)?.y ?? before) - before);
    if (page.isNear && this.pages.includes(page)) page.draw();
    if (this.#focusing && this.item(this.#current)) this.focus(this.#current);
    this.dispatchEvent(new CustomEvent("received", { detail: { at: page.start } }));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.length - 1;
    const current = this.#current;
    const targets = {
      ArrowLeft: () => Math.max(0, current - 1),
      ArrowRight: () => Math.min(last, current + 1),
      ArrowUp: () => this.#inNextRow(-1),
      ArrowDown: () => this.#inNextRow(1),
      Home: () => 0,
      End: () => last,
    };
    if (event.key in targets) {
      event.preventDefault();
      this.focus(targets[event.key]());
    } else if (letterOf(event) === "x" || (event.key === " " && event.target.tagName === "A")) {
      const item = this.item(current);
      event.preventDefault();
      if (item) this.select(item, event.shiftKey);
    }
  }

  /** Index of the tile in the next row (`step` 1) or the one above (-1) that is nearest. */
  #inNextRow(step) {
    const start = this.#box(this.#current);
    let best = this.#current;
    let row = null;
    let distance = Infinity;
    for (let at = best + step; at >= 0 && at < this.length; at += step) {
      const box = this.#box(at);
      if (Math.abs(box.y - start.y) < 1) continue;
      row ??= box.y;
      if (Math.abs(box.y - row) >= 1) break;
      const away = Math.abs(box.x + box.width / 2 - start.x - start.width / 2);
      if (away < distance) [best, distance] = [at, away];
    }
    return best;
  }
}

function setTabIndex(element, value) {
  for (const part of element.querySelectorAll("a, input, button")) part.tabIndex = value;
}
