// Items that are selected; they stay selected when the query changes.

export class Selection extends EventTarget {
  #items = new Map();

  get size() {
    return this.#items.size;
  }

  has(id) {
    return this.#items.has(id);
  }

  items() {
    return [...this.#items.values()];
  }

  ids() {
    return [...this.#items.keys()];
  }

  toggle(item) {
    if (!this.#items.delete(item.id)) this.#items.set(item.id, item);
    this.#changed();
  }

  add(items) {
    for (const item of items) this.#items.set(item.id, item);
    this.#changed();
  }

  remove(ids) {
    for (const id of ids) this.#items.delete(id);
    this.#changed();
  }

  clear() {
    this.#items.clear();
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
