// Chips of a query: texts, items and images, wanted or unwanted, and the filters.

import { button, h, icon, shorten } from "./dom.js";
import { valueName } from "./filters.js";
import { imageOf } from "./images.js";
import { date, t } from "./language.js";
import { term } from "./state.js";
import { showImage } from "./thumbnails.js";

/** Read what was typed: "-text" is an unwanted text, "+text" a further wanted one. */
export function readTyped(text) {
  const typed = text.trim();
  const found = /^([-−+])\s*(\S.*)$/s.exec(typed);
  if (!found) return { text: typed };
  return { term: term("text", found[2], found[1] === "+" ? 1 : -1) };
}

const nameOf = (kind) => ({ id: t("this image"), image: t("your image") })[kind];

export class Terms {
  /**
   * @param {HTMLElement} root
   * @param {import("./state.js").Store} store
   * @param {(id: string) => string} thumbnailOf path of an item's thumbnail by its id
   */
  constructor(root, store, thumbnailOf) {
    this.root = root;
    this.store = store;
    this.thumbnailOf = thumbnailOf;
  }

  draw() {
    this.root.replaceChildren(...this.store.state.terms.map((one) => this.#term(one)), ...this.#filters());
  }

  /** Build a chip for each filter. */
  #filters() {
    const { tags, values, from, to } = this.store.state;
    const without = (list, value) => list.filter((one) => one !== value);
    const day = (text) => text && date(Date.parse(text) / 1000, { dateStyle: "medium" });
    const filters = [
      ...tags.map((tag) => [valueName("tags", tag), { tags: without(tags, tag) }]),
      ...Object.entries(values).flatMap(([field, chosen]) =>
        chosen.map((value) => [valueName(field, value), { values: { ...values, [field]: without(chosen, value) } }])),
      ...(from || to ? [[`${day(from)} – ${day(to)}`.trim(), { from: "", to: "" }]] : []),
    ];
    return filters.map(([name, changes]) => this.#chip(name, changes, "", icon("filter"), h("span", {}, name)));
  }

  add(one) {
    const others = this.store.state.terms.filter(({ kind, value }) => kind !== one.kind || value !== one.value);
    this.store.set({ terms: [...others, one], item: "", view: "wall" });
  }

  /** Build the term of an item. */
  ofItem(item, sign) {
    return term("id", item.id, sign);
  }

  /** Search by one item; the filters stay. */
  similarTo(item) {
    this.store.set({ text: "", terms: [this.ofItem(item, 1)], item: "", view: "wall" });
  }

  /** Search by an image of the reader. */
  ofImage(key) {
    const others = this.store.state.terms.filter(({ kind }) => kind !== "image");
    this.store.set({ terms: [...others, term("image", key)], item: "", view: "wall" });
  }

  #term(one) {
    const { kind, value, sign } = one;
    const name = t(sign > 0 ? "More like {name}" : "Less like {name}", { name: nameOf(kind) ?? `“${value}”` });
    const hidden = (text) => h("span", { class: "visually-hidden" }, text);
    return this.#chip(
      name, { terms: this.store.state.terms.filter((other) => other !== one) }, sign < 0 ? "chip-less" : "",
      icon(sign < 0 ? "unlike" : "like"),
      hidden(`${t(sign > 0 ? "More like" : "Less like")} `),
      ...(kind === "text" ? [h("span", {}, shorten(value, 40))] : [this.#image(one), hidden(nameOf(kind))]),
    );
  }

  /** Build a chip, with a button that changes the state so that the chip is gone. */
  #chip(name, changes, style, ...content) {
    return h("span", { class: `chip ${style}`.trim() },
      h("span", { class: "chip-main", title: name }, ...content),
      button(t("Remove: {term}", { term: name }), "close", () => this.store.set(changes), { class: "chip-remove" }),
    );
  }

  #image({ kind, value }) {
    const image = h("img", { class: "chip-image", alt: "" });
    if (kind === "id") showImage(image, this.thumbnailOf(value));
    else if (imageOf(value)) image.src = imageOf(value);
    else return h("span", {}, t("missing image"));
    return image;
  }
}
