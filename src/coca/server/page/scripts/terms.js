// Chips of a query: texts, items and images with their weights, wanted or unwanted.

import { openDialog } from "./dialogs.js";
import { button, h, icon, shorten } from "./dom.js";
import { valueName } from "./filters.js";
import { imageOf } from "./images.js";
import { date, t } from "./language.js";
import { drawRegion } from "./region.js";
import { hasOnlyTexts, term } from "./state.js";
import { showImage } from "./thumbnails.js";

/** Read what was typed: "-text" is an unwanted text, "+text" a further wanted one. */
export function readTyped(text) {
  const typed = text.trim();
  const found = /^([-−+])\s*(\S.*)$/s.exec(typed);
  if (!found) return { text: typed };
  return { term: term("text", found[2], { sign: found[1] === "+" ? 1 : -1 }) };
}

const nameOf = (kind) => ({ id: t("this image"), image: t("your image") })[kind];

const describe = ({ kind, value, sign, region }) => {
  const whole = nameOf(kind) ?? `“${value}”`;
  const name = region ? t("a region of {image}", { image: whole }) : whole;
  return t(sign > 0 ? "More like {name}" : "Less like {name}", { name });
};

export class Terms {
  /**
   * @param {HTMLElement} root
   * @param {Store} store
   * @param {function(string): string} thumbnailOf path of an item's thumbnail by its id
   */
  constructor(root, store, thumbnailOf) {
    this.root = root;
    this.store = store;
    this.thumbnailOf = thumbnailOf;
  }

  draw() {
    const { text, weight, terms, words } = this.store.state;
    const chips = terms.map((one, at) => this.#chip(one, at));
    // The search field has the text; its chip only adds the weight.
    if (text && (terms.length || weight !== 1)) {
      chips.unshift(this.#chip(term("text", text, { weight }), -1));
    }
    if (text || terms.length) {
      const add = button(t("Add"), "more", () => this.#edit(null), {
        text: true, class: "chip-add", title: t("Add a text to the query"),
      });
      chips.push(add);
    }
    if (hasOnlyTexts(this.store.state)) {
      const toggle = button(t("Search captions too"), "check", () => {
        this.store.set({ words: !words });
        this.root.querySelector(".chip-words")?.focus();
      }, {
        text: true, class: "chip-words", "aria-pressed": String(words),
        title: t("Also search the words of captions that people gave"),
      });
      chips.push(toggle);
    }
    this.root.replaceChildren(...chips, ...this.#filters());
  }

  /** Build a chip for each filter, which removes it. */
  #filters() {
    const { tags, values, from, to } = this.store.state;
    const without = (list, value) => list.filter((one) => one !== value);
    const day = (text) => text && date(Date.parse(text) / 1000, { dateStyle: "medium" });
    const filters = [
      ...tags.map((tag) => [tag, { tags: without(tags, tag) }]),
      ...Object.entries(values).flatMap(([field, chosen]) =>
        chosen.map((value) => [valueName(field, value), { values: { ...values, [field]: without(chosen, value) } }])),
      ...(from || to ? [[`${day(from)} – ${day(to)}`.trim(), { from: "", to: "" }]] : []),
    ];
    return filters.map(([name, changes]) => h(
      "span", { class: "chip" },
      h("span", { class: "chip-main" }, icon("filter"), h("span", {}, name)),
      button(t("Remove: {term}", { term: name }), "close", () => this.store.set(changes), { class: "chip-remove" }),
    ));
  }

  add(one) {
    const known = ({ kind, value, region }) => `${kind}:${value}:${region}`;
    const others = this.store.state.terms.filter((other) => known(other) !== known(one));
    this.store.set({ terms: [...others, one], item: "", view: "wall" });
  }

  /** Build the term of an item. */
  ofItem(item, sign, region = null) {
    return term("id", item.id, { sign, region });
  }

  /** Search by one item, or a region of it; the filters stay. */
  similarTo(item, region = null) {
    this.store.set({ text: "", weight: 1, terms: [this.ofItem(item, 1, region)], item: "", view: "wall" });
  }

  /** Search by an image of the reader. */
  ofImage(key) {
    const others = this.store.state.terms.filter(({ kind }) => kind !== "image");
    this.store.set({ terms: [...others, term("image", key)], item: "", view: "wall" });
  }

  #chip(one, at) {
    const label = describe(one);
    const hidden = (text) => h("span", { class: "visually-hidden" }, text);
    // The name of the button is its content, so that it has all that is shown.
    return h(
      "span",
      { class: `chip${one.sign < 0 ? " chip-less" : ""}` },
      h(
        "button",
        {
          type: "button", class: "chip-main", title: t("{term}; weight {weight}", { term: label, weight: one.weight }),
          on: { click: () => this.#edit(one, at) },
        },
        icon(one.sign < 0 ? "less" : "more"),
        hidden(`${t(one.sign > 0 ? "More like" : "Less like")} `),
        ...(one.kind === "text"
          ? [h("span", {}, shorten(one.value, 40))]
          : [this.#image(one, "chip-image"), hidden(nameOf(one.kind))]),
        one.region && h("span", { class: "chip-note" }, t("region")),
        one.weight !== 1 && h("span", { class: "chip-weight" }, `×${one.weight}`),
      ),
      button(t("Remove: {term}", { term: label }), "close", () => this.#remove(at), { class: "chip-remove" }),
    );
  }

  #image(one, style) {
    const image = h("img", { class: style, alt: "" });
    if (one.kind === "id") showImage(image, this.thumbnailOf(one.value));
    else if (imageOf(one.value)) image.src = imageOf(one.value);
    else return h("span", {}, t("missing image"));
    return image;
  }

  #remove(at) {
    if (at < 0) this.store.set({ text: "", weight: 1 });
    else this.store.set({ terms: this.store.state.terms.filter((_, n) => n !== at) });
  }

  #replace(at, one) {
    const { terms } = this.store.state;
    if (at === null) this.store.set({ terms: [...terms, one] });
    else if (at >= 0) this.store.set({ terms: terms.map((old, n) => (n === at ? one : old)) });
    else if (one.sign > 0) this.store.set({ text: one.value, weight: one.weight });
    else this.store.set({ text: "", weight: 1, terms: [one, ...terms] });
  }

  #edit(given, at = null) {
    const one = given ?? term("text", "");
    let region = one.region;
    const value = h("input", {
      class: "field", id: "term-text", value: one.value, maxlength: "4096", autocomplete: "off",
      autofocus: true, required: true,
    });
    const output = h("output", { class: "term-weight", for: "term-weight" }, `×${one.weight}`);
    const weight = h("input", {
      type: "range", id: "term-weight", min: "0.1", max: "4", step: "0.1", value: one.weight,
      on: { input: () => (output.value = `×${Number(weight.value)}`) },
    });
    const radio = (name, sign) => {
      const input = h("input", { type: "radio", name: "sign", value: sign, checked: one.sign === sign });
      return h("label", { class: "segment" }, input, h("span", {}, name));
    };
    const form = h(
      "form",
      { method: "dialog", class: "term-form" },
      one.kind === "text"
        ? [h("label", { class: "field-label", for: "term-text" }, t("Text")), value]
        : this.#imageField(one, (drawn) => (region = drawn)),
      h(
        "fieldset",
        { class: "segments" },
        h("legend", { class: "visually-hidden" }, t("Direction")),
        radio(t("More like this"), 1),
        radio(t("Less like this"), -1),
      ),
      h("label", { class: "field-label", for: "term-weight" }, `${t("Weight")} `, output),
      weight,
      h(
        "div",
        { class: "dialog-actions" },
        h("button", { class: "button button-primary", value: "yes" }, t(given ? "Apply" : "Add")),
      ),
    );
    openDialog(t(given ? "Change this term" : "Add to the query"), form, {
      onClose: (answer) => {
        const text = one.kind === "text" ? value.value.trim() : one.value;
        if (answer !== "yes" || !text) return;
        const sign = Number(new FormData(form).get("sign"));
        this.#replace(at, term(one.kind, text, { sign, weight: Number(weight.value), region }));
      },
    });
  }

  #imageField(one, onRegion) {
    const image = this.#image(one, "term-image");
    const frame = h("div", { class: "region-frame" }, image);
    const mark = h("div", { class: "region-mark" });
    const show = (region) => {
      mark.hidden = !region;
      if (!region) return;
      const [x0, y0, x1, y1] = region.map((side) => side * 100);
      Object.assign(mark.style, {
        left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%`,
      });
    };
    let current = one.region;
    show(current);
    frame.append(mark);
    const draw = button(t("Draw a region"), "region", () => {
      draw.hidden = true;
      mark.hidden = true;
      const done = (region) => {
        current = region;
        draw.hidden = false;
        show(region);
        onRegion(region);
        draw.focus();
      };
      drawRegion(frame, {
        start: current, action: t("Use this region"), onDone: done, onCancel: () => done(current),
      });
    }, { text: true });
    return h("div", { class: "term-example" }, frame, draw);
  }
}
