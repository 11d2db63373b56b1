// Suggestions below the search field: saved and recent queries, examples, tags, albums, captions.

import { api } from "./api.js";
import { h, icon, shorten } from "./dom.js";
import { valueName } from "./filters.js";
import { t } from "./language.js";
import { fromQuery, toQuery } from "./state.js";

const RECENT = "coca.recent";
const SAVED = "coca.saved";
const MAX_RECENT = 6;
const MAX_SAVED = 20;
const MAX_SHOWN = 9;
/** Captions among them: more would cover the images that they are about. */
const MAX_CAPTIONS = 4;
const MAX_VALUES = 1000;
const EXAMPLES = 3;
/** Fields whose values are suggested, and the icon of each. */
const FIELDS = {
  tags: "tag", "metadata.albums": "album", album: "album", "metadata.people": "tag",
  "metadata.city": "tag", "metadata.country": "tag",
};

const read = (key) => {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return Array.isArray(found) ? found.filter((one) => typeof one?.query === "string") : [];
  } catch {
    return [];
  }
};

/** Drop the stop at the end of a caption. */
const plain = (caption) => caption.replace(/[.\s]+$/, "");

/** Choose captions of different images as examples of queries, which these images answer. */
export function examplesOf(items) {
  const found = new Map();
  for (const { caption } of items) {
    const text = plain(caption);
    const words = text.split(/\s+/).length;
    // The last word, mostly the object, differs between the examples.
    const last = text.split(/\s+/).at(-1).toLowerCase();
    if (words > 1 && words <= 7 && !found.has(last)) found.set(last, text);
  }
  const all = [...found.values()];
  const step = Math.max(1, Math.floor(all.length / EXAMPLES));
  return all.filter((_, at) => at % step === 0).slice(0, EXAMPLES);
}

export class Suggestions {
  #values = null;
  #active = -1;
  #text = "";
  #options = [];

  /** `options`: `store`, `wall`, `examples()`, and `onChoice(changes)` of the state. */
  constructor(field, root, options) {
    Object.assign(this, { field, root }, options);
    for (const name of ["focus", "input"]) field.addEventListener(name, () => this.#open());
    field.addEventListener("blur", () => this.close());
    field.addEventListener("keydown", (event) => this.#key(event));
    // The field keeps the focus.
    root.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  /** Draw again after a letter or a result, while the field has the focus. */
  draw() {
    if (document.activeElement !== this.field || !this.opened) return;
    const text = this.field.value.trim().toLowerCase();
    this.#options = (text ? this.#matching(text) : this.#beginning()).slice(0, MAX_SHOWN);
    if (text !== this.#text) this.#active = -1;
    this.#text = text;
    this.#active = Math.min(this.#active, this.#options.length - 1);
    this.root.hidden = !this.#options.length;
    this.field.setAttribute("aria-expanded", String(!this.root.hidden));
    this.root.replaceChildren(...this.#options.map((option, at) => this.#option(option, at)));
    this.#mark();
  }

  close() {
    this.opened = false;
    this.root.hidden = true;
    this.field.setAttribute("aria-expanded", "false");
    this.field.removeAttribute("aria-activedescendant");
  }

  /** Note a query that the reader has finished. */
  remember(state) {
    if (!state.text) return;
    const query = toQuery({ ...state, item: "" });
    const others = read(RECENT).filter((one) => one.query !== query);
    localStorage.setItem(RECENT, JSON.stringify([{ query, name: state.text }, ...others].slice(0, MAX_RECENT)));
  }

  isSaved(state) {
    return read(SAVED).some(({ query }) => query === toQuery({ ...state, item: "" }));
  }

  /** Save a query under a name, or forget it. */
  save(state, name) {
    const query = toQuery({ ...state, item: "" });
    const others = read(SAVED).filter((one) => one.query !== query);
    const saved = others.length < read(SAVED).length ? others : [{ query, name }, ...others];
    localStorage.setItem(SAVED, JSON.stringify(saved.slice(0, MAX_SAVED)));
  }

  /** Read the values of the collection again when they are needed. */
  forget() {
    this.#values = null;
  }

  async #open() {
    this.opened = true;
    this.draw();
    if (this.#values) return;
    this.#values = [];
    const { collection } = this.store.state;
    const body = { fields: Object.keys(FIELDS), limit: MAX_VALUES, ...(collection && { collection }) };
    try {
      const { facets } = await api.facets(body);
      this.#values = facets.flatMap(({ field, values }) => values.map(({ value }) => ({ field, value: String(value) })));
      this.draw();
    } catch {
      // The search works without suggestions.
      this.#values = null;
    }
  }

  #beginning() {
    const past = (key, image) => read(key).map(({ name, query }) => ({ image, text: name, run: () => this.#go(query) }));
    const examples = this.examples().map((text) => ({ image: "search", text, note: t("example"), run: () => this.onChoice({ text }) }));
    return [...past(SAVED, "bookmark"), ...past(RECENT, "clock"), ...examples];
  }

  #matching(text) {
    // Each typed word begins a word of a suggestion.
    const typed = text.split(/\s+/).map((word) => ` ${word}`);
    const has = (one) => typed.every((word) => ` ${one.toLowerCase()}`.includes(word));
    const values = (this.#values ?? [])
      .map((one) => ({ ...one, shown: valueName(one.field, one.value) }))
      .filter(({ shown }) => has(shown))
      .map(({ field, value, shown }) => ({
        image: FIELDS[field], text: shown, note: t(field === "tags" ? "tag" : /album/.test(field) ? "album" : "filter"),
        run: () => this.#filter(field, value),
      }));
    const captions = [...new Set(this.wall.loaded().map(({ caption }) => plain(caption)))]
      .filter((caption) => has(caption) && caption.toLowerCase() !== text)
      .map((caption) => ({ image: "search", text: caption, run: () => this.onChoice({ text: caption }) }));
    const recent = read(RECENT)
      .filter(({ name }) => has(name) && name.toLowerCase() !== text)
      .map(({ name, query }) => ({ image: "clock", text: name, run: () => this.#go(query) }));
    return [...values.slice(0, 4), ...recent.slice(0, 2), ...captions.slice(0, MAX_CAPTIONS)];
  }

  #go(query) {
    this.onChoice(fromQuery(query));
  }

  #filter(field, value) {
    const { tags, values } = this.store.state;
    const changes = field === "tags" ? { tags: [...new Set([...tags, value])] } : { values: { ...values, [field]: [value] } };
    this.onChoice({ ...changes, text: "" });
  }

  #option({ image, text, note }, at) {
    return h(
      "li",
      { role: "option", id: `suggestion-${at}`, on: { click: () => this.#choose(at) } },
      icon(image),
      h("span", { class: "suggestion-text" }, shorten(text, 80)),
      note && h("span", { class: "hint" }, note),
    );
  }

  #choose(at) {
    this.close();
    this.#options[at].run();
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (this.root.hidden) this.#open();
      const { length } = this.#options;
      this.#active = Math.max(-1, Math.min(length - 1, this.#active + step));
      this.#mark();
    } else if (event.key === "Enter") {
      if (!this.root.hidden && this.#active >= 0) {
        event.preventDefault();
        this.#choose(this.#active);
      } else this.close();
    }
  }

  #mark() {
    [...this.root.children].forEach((one, at) => one.setAttribute("aria-selected", String(at === this.#active)));
    if (this.#active < 0) this.field.removeAttribute("aria-activedescendant");
    else this.field.setAttribute("aria-activedescendant", `suggestion-${this.#active}`);
    this.root.children[this.#active]?.scrollIntoView({ block: "nearest" });
  }
}
