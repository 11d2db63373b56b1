// The search field: searches while it is typed in, and knows when a query is finished.

import { readTyped } from "./terms.js";

/** Time between two searches while typing: what a search takes, so that a slow service is not flooded. */
const PAUSE_MS = { least: 40, most: 600 };

export class SearchField {
  store; terms; suggestions;
  /** Whether the last entry of the history is of a text that is still being typed. */
  #typing = false;
  #timer = 0;
  /** When the last search began, and how long it took, in ms. */
  #began = 0;
  #took = 0;

  /** `options`: `store`, `terms` and `suggestions`. */
  constructor(form, field, options) {
    this.field = field;
    Object.assign(this, options);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#finish();
    });
    for (const name of ["input", "compositionend"]) field.addEventListener(name, (event) => this.#typed(event));
    field.addEventListener("blur", () => {
      this.#search();
      if (this.#typing) this.suggestions.remember(this.store.state);
      this.#typing = false;
    });
    addEventListener("popstate", () => (this.#typing = false));
  }

  /** Note that a search begins; returns a function that notes its end. */
  measure() {
    const began = performance.now();
    this.#began = began;
    return () => (this.#took = performance.now() - began);
  }

  /** Search a suggestion in place of what was typed. */
  choose(changes) {
    clearTimeout(this.#timer);
    this.field.value = changes.text;
    this.store.set({ hidden: false, view: "wall", item: "", ...changes }, { replace: this.#typing });
    this.#typing = false;
    this.suggestions.remember(this.store.state);
  }

  /** Show the text of a state, unless the reader types another one. */
  show(state, before) {
    // What the reader types while the page starts, or next to another change, stays.
    const other = before.text !== state.text || document.activeElement !== this.field;
    if (other && readTyped(this.field.value).text !== state.text) this.field.value = state.text;
  }

  #typed(event) {
    clearTimeout(this.#timer);
    if (event.isComposing) return;
    const apart = Math.min(PAUSE_MS.most, Math.max(PAUSE_MS.least, this.#took));
    // The first letter after a pause is searched at once.
    this.#timer = setTimeout(() => this.#search(), this.#began + apart - performance.now());
  }

  #search() {
    clearTimeout(this.#timer);
    const { text, term } = readTyped(this.field.value);
    // A text with a sign is a further term, which waits for Enter.
    if (term || text === this.store.state.text) return;
    this.store.set({ text, hidden: false, view: "wall", item: "" }, { replace: this.#typing });
    this.#typing = true;
  }

  /** Search what was typed, as a query that the reader has finished. */
  #finish() {
    const { term } = readTyped(this.field.value);
    this.#search();
    this.#typing = false;
    if (term) {
      this.field.value = this.store.state.text;
      this.terms.add(term);
    } else if (this.store.state.view !== "wall") this.store.set({ view: "wall" });
    this.suggestions.close();
    this.suggestions.remember(this.store.state);
    if (matchMedia("(pointer: coarse)").matches) this.field.blur();
  }
}
