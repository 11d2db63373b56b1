// Suggestions below the search field: recent queries, tags, folders, captions.

import { api } from "./api.js";
import { h, icon } from "./dom.js";
import { valueName } from "./filters.js";
import { t } from "./language.js";
import { fromQuery, hasQuery, toQuery } from "./state.js";

const RECENT = "coca.recent";
const MAX_RECENT = 6;
const MAX_SHOWN = 9;
const MAX_CAPTIONS = 3;
/** Number of words of a caption that is a query as people type it. */
const WORDS = { least: 2, most: 8 };
const MAX_VALUES = 1000;
/** Fields whose values are suggested, and the icon of each. */
const FIELDS = {
  tags: "tag", album: "folder", "metadata.people": "tag", "metadata.city": "tag", "metadata.country": "tag",
};

const recent = () => {
  try {
    const found = JSON.parse(localStorage.getItem(RECENT));
    return Array.isArray(found) ? found.filter((one) => typeof one?.query === "string") : [];
  } catch {
    return [];
  }
};

/** Captions of items that are good queries: given ones of a few words, as generated ones may be wrong. */
function examplesOf(items) {
  const captions = items
    .filter(({ caption_source: source }) => source === "given")
    .map(({ caption }) => caption.replace(/[.\s]+$/, ""))
    .filter((caption) => {
      const { length } = caption.split(/\s+/);
      return length >= WORDS.least && length <= WORDS.most && /^[\p{L}\p{M}\s,'’-]+$/u.test(caption);
    });
  return [...new Set(captions)];
}

export class Suggestions {
  field; root; store; wall; onChoice;
  #values = null;
  #active = -1;
  #text = "";
  #options = [];

  /** `options`: `store`, `wall`, and `onChoice(changes)` of the state. */
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
    this.#options = (text ? this.#matching(text) : this.#first()).slice(0, MAX_SHOWN);
    if (text !== this.#text) this.#active = -1;
    this.#text = text;
    this.#active = Math.min(this.#active, this.#options.length - 1);
    this.root.hidden = !this.#options.length;
    document.body.classList.toggle("suggesting", !this.root.hidden);
    this.field.setAttribute("aria-expanded", String(!this.root.hidden));
    this.root.replaceChildren(...this.#options.map((option, at) => this.#option(option, at)));
    this.#mark();
  }

  close() {
    this.opened = false;
    this.root.hidden = true;
    document.body.classList.remove("suggesting");
    this.field.setAttribute("aria-expanded", "false");
    this.field.removeAttribute("aria-activedescendant");
  }

  /** Note a query that the reader has finished. */
  remember(state) {
    if (!state.text) return;
    const query = toQuery({ ...state, item: "" });
    const others = recent().filter((one) => one.query !== query);
    localStorage.setItem(RECENT, JSON.stringify([{ query, name: state.text }, ...others].slice(0, MAX_RECENT)));
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

  #matching(text) {
    // Each typed word begins a word of a suggestion.
    const typed = text.split(/\s+/).map((word) => ` ${word}`);
    const has = (one) => typed.every((word) => ` ${one.toLowerCase()}`.includes(word));
    const values = (this.#values ?? [])
      .map((one) => ({ ...one, shown: valueName(one.field, one.value) }))
      .filter(({ shown }) => has(shown))
      .map(({ field, value, shown }) => ({
        image: FIELDS[field], text: shown, note: t({ tags: "tag", album: "folder" }[field] ?? "filter"),
        run: () => this.#filter(field, value),
      }));
    const captions = this.#examples((caption) => has(caption) && caption.toLowerCase() !== text);
    const past = this.#recent((name) => has(name) && name.toLowerCase() !== text);
    return [...values.slice(0, 4), ...past.slice(0, 2), ...captions];
  }

  /** Suggestions before the first letter. */
  #first() {
    const past = this.#recent(() => true);
    return past.length || hasQuery(this.store.state) ? past : this.#examples(() => true);
  }

  #examples(fits) {
    return examplesOf(this.wall.loaded()).filter(fits).slice(0, MAX_CAPTIONS)
      .map((caption) => ({ image: "search", text: caption, run: () => this.onChoice({ text: caption }) }));
  }

  #recent(fits) {
    return recent().filter(({ name }) => fits(name))
      .map(({ name, query }) => ({ image: "clock", text: name, run: () => this.onChoice(fromQuery(query)) }));
  }

  #filter(field, value) {
    const { tags, values } = this.store.state;
    const changes = field === "tags" ? { tags: [...new Set([...tags, value])] } : { values: { ...values, [field]: [value] } };
    this.onChoice({ ...changes, text: "" });
  }

  #option({ image, text, note }, at) {
    return h("li", { role: "option", id: `suggestion-${at}`, on: { click: () => this.#choose(at) } },
      icon(image),
      h("span", { class: "suggestion-text" }, text),
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
