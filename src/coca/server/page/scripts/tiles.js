// Tiles of the wall that are in the document.

import { discard, placeholder, rankOf, tile } from "./tile.js";

export class Tiles {
  actions; addressOf; asked; selection;
  /** @type {Map<number, any>} */
  #shown = new Map();
  /** Tile -> what was last drawn of it: most tiles stay as they are in a frame of a scroll. */
  #drawn = new WeakMap();

  /** `list` has the tiles; `options`: `actions`, `addressOf(item, index)`, `asked()` and `selection`. */
  constructor(list, options) {
    this.list = list;
    Object.assign(this, options);
  }

  get(index) {
    return this.#shown.get(index);
  }

  clear() {
    this.drop(() => true);
  }

  /** Remove the tiles for which `isOld(index, element)` holds. */
  drop(isOld) {
    for (const [index, element] of this.#shown) {
      if (!isOld(index, element)) continue;
      discard(element);
      this.#shown.delete(index);
    }
  }

  /** Draw the tile of an index, an empty one if its item is not loaded; `current` takes the focus. */
  draw(index, blocks, current) {
    const item = blocks.item(index);
    let element = this.#shown.get(index);
    const box = blocks.box(index);
    if (element && item && element.dataset.id !== item.id) {
      discard(element);
      element = null;
    }
    if (!element) {
      const { actions } = this;
      const strength = item && strengthOf(item, blocks.item(0));
      const shown = { ...box, address: item && this.addressOf(item, index), strength, asked: this.asked(), actions };
      element = item ? tile(item, shown) : placeholder();
      element.dataset.index = index;
      this.#shown.set(index, element);
      insertInOrder(this.list, element);
      this.#mark(element, item);
    }
    const setSize = blocks.complete ? blocks.length : -1;
    const drawn = [box.x, box.y, box.width, box.height, setSize, index === current].join();
    if (this.#drawn.get(element) === drawn) return;
    this.#drawn.set(element, drawn);
    if (item) {
      element.setAttribute("aria-posinset", index + 1);
      element.setAttribute("aria-setsize", setSize);
      setTabIndex(element, index === current);
    }
    element.style.transform = `translate(${box.x}px, ${box.y}px)`;
    element.style.width = `${box.width}px`;
    element.style.height = `${box.height}px`;
  }

  /** Let the Tab key reach one tile alone. */
  focusable(current) {
    for (const [index, element] of this.#shown) setTabIndex(element, index === current);
  }

  /** Mark the selected tiles. */
  mark(blocks) {
    for (const [index, element] of this.#shown) this.#mark(element, blocks.item(index));
  }

  #mark(element, item) {
    if (!item) return;
    const selected = this.selection.has(item.id);
    element.classList.toggle("tile-selected", selected);
    element.querySelector("input").checked = selected;
  }
}

/** Insert an element of a list by its index: the order in the document is the order of the items, for screen readers. */
export function insertInOrder(list, element) {
  let next = null;
  for (let child = list.lastElementChild; child; child = child.previousElementSibling) {
    if (Number(child.dataset.index) < Number(element.dataset.index)) break;
    next = child;
  }
  list.insertBefore(element, next);
}

function setTabIndex(element, isCurrent) {
  for (const part of element.querySelectorAll("a, input, button")) part.tabIndex = isCurrent ? 0 : -1;
}

/** Rank score of an item as a share of the best one's, 0 to 1; 0 without a query. */
function strengthOf(item, best) {
  const [rank, most] = [rankOf(item), best ? rankOf(best) : null];
  return rank === null || !(most > 0) ? 0 : Math.min(1, Math.max(0.02, rank / most));
}
