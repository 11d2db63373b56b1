// Why an image is among the hits: parts of its score, labels, and words of the query over the image.

import { api } from "./api.js";
import { $, button, h } from "./dom.js";
import { imageOf } from "./images.js";
import { t } from "./language.js";
import { report } from "./notices.js";
import { LOOKS_LIKE, nameOf } from "./reasons.js";
import { hasQuery, itself, queryOf, resultOf, scopeOf } from "./state.js";

/** Part of a score -> its name. */
const PARTS = { image: "Image", caption: "Caption", words: "Words", text: "Labels and text", likelihood: "Likelihood" };

/**
 * Support of a word, in nats, from which on an image probably shows it: of 200 photos, 88 % have it for
 * the name of their class, and 4 % for another name; 96 % and 14 % are above 0.
 */
const LIKELY = 3;
/**
 * Share of the labels from which on an image looks like the first one: of 600 photos of known classes, 95 % show what
 * it names, and 60 % below.
 */
const SURE = 0.5;
/** Cosines of a word and a cell that are drawn as nothing, and as most opaque, fitted to the same photos. */
const [CLEAR, OPAQUE] = [0.05, 0.17];

/** Time that an image is shown before it is explained: one that is passed by is not. */
const PAUSE_MS = 150;

/** Whether the explanation is open, also of the next item. */
let isOpen = false;

/** Why the opened image is here; the words of the query over it, of which a chosen one stays chosen. */
export class Why {
  #timer = 0;
  #request = null;
  #query = "";
  /** Item and query of the explanation, which is null until it is there. */
  #key = "";
  #answer = null;
  /** Words of the query, as of the last explanation. */
  #words = [];
  #chosen = "";

  /** `view` has `item`, `store`, `writable()` and `change(changes)`. */
  constructor(view) {
    this.view = view;
    this.chips = h("ul", { class: "why-words", role: "list", "aria-label": t("Words of the query in the image") });
    this.reason = h("p");
    this.parts = h("div", { class: "why", "aria-live": "polite" });
  }

  /** Explain the item of the view, soon. */
  show() {
    const { item, store } = this.view;
    const query = hasQuery(store.state) ? resultOf(store.state) : "";
    const key = `${item.id} ${query}`;
    if (key === this.#key) return;
    this.hide();
    this.#words = query === this.#query ? this.#words.map(({ word }) => ({ word })) : [];
    this.#query = query;
    this.#key = key;
    this.#draw();
    const hasWords = store.state.text || store.state.terms.some(({ kind }) => kind === "text");
    if (query && hasWords) this.#timer = setTimeout(() => this.#load(), PAUSE_MS);
  }

  /** End the explanation. */
  hide() {
    clearTimeout(this.#timer);
    this.#request?.abort();
    [this.#key, this.#request, this.#answer] = ["", null, null];
  }

  /** Build the section of the panel; null without a query. */
  section() {
    const { item, store, writable } = this.view;
    if (!hasQuery(store.state)) return null;
    const toggle = () => {
      isOpen = opener.open;
      if (isOpen) this.#load();
    };
    const opener = h("details", { class: "why-opener", open: isOpen, on: { toggle } }, h("summary", {}, t("Why?")), this.parts);
    this.#draw();
    return h("section", { class: "item-section", "aria-label": t("Why this image?") },
      item.reason && h("div", { class: "why-reason" }, this.reason, writable() && correctionOf(this.view)),
      opener,
    );
  }

  async #load() {
    if (this.#request) return;
    const { item, store } = this.view;
    const request = new AbortController();
    this.#request = request;
    const scope = scopeOf(store.state);
    const where = [...scope.where, ...itself(store.state)];
    try {
      this.#answer = await api.explain({ ...scope, where, ...queryOf(store.state, imageOf), item: item.id }, request.signal);
    } catch (error) {
      if (request.signal.aborted) return;
      this.#request = null;
      if (isOpen) report(error);
      return;
    }
    this.#words = this.#answer.words;
    this.#draw();
  }

  #draw() {
    const { item } = this.view;
    const [first] = (item.reason === LOOKS_LIKE && this.#answer?.labels) || [];
    const label = first?.probability >= SURE ? first : null;
    this.reason.textContent = item.likely === false ? t("Probably not") : !item.reason ? ""
      : label ? t("Looks like: {label}", { label: `${label.label} ${percent(label)}` }) : nameOf(item.reason);
    this.parts.replaceChildren(...(this.#answer ? explained(this.#answer) : []));
    const focused = $(":focus", this.chips)?.dataset.word;
    const chips = this.#words.map((word) => this.#chip(word));
    this.chips.replaceChildren(...chips.map((chip) => h("li", {}, chip)));
    if (focused) chips.find(({ dataset }) => dataset.word === focused)?.focus();
    this.#mark(this.#chosen);
  }

  /** Build the chip of a word, which shows where it is in the image; a word that is not seen has no place. */
  #chip({ word, support }) {
    const label = support === undefined ? word : t(support >= LIKELY ? "{word}: likely" : support > 0 ? "{word}: perhaps" : "{word}: not seen", { word });
    const choose = () => {
      this.#chosen = this.#chosen === word ? "" : word;
      this.#mark(this.#chosen);
    };
    const on = { click: choose, pointerenter: () => this.#mark(word), pointerleave: () => this.#mark(this.#chosen) };
    return h("button", { type: "button", class: support > 0 ? "why-word" : "why-word why-against", data: { word }, title: t("Show {word} in the image", { word }), on }, label);
  }

  /** Draw the map of a word over the image. */
  #mark(word) {
    $(".why-map")?.remove();
    for (const chip of this.chips.querySelectorAll("button")) chip.setAttribute("aria-pressed", String(chip.dataset.word === this.#chosen));
    const shown = this.#words.find((one) => one.word === word);
    if (shown?.map && shown.support > 0) $(".item-frame")?.append(drawn(shown.map));
  }
}

/** Build the button that corrects a wrong reason; false if it is neither a tag nor the caption. */
function correctionOf(view) {
  const tag = view.item.tags.find((name) => view.item.reason === `tag: ${name}`);
  if (tag) return button(t("Wrong tag? Remove"), null, () => view.change({ remove_tags: [tag] }), { text: true });
  const edit = () => $(".caption-form textarea", view.view).focus();
  return view.item.reason === "caption" && button(t("Correct the caption"), null, edit, { text: true });
}

const percent = ({ probability }) => `${Math.round(100 * probability)} %`;

function explained({ parts, score, labels, against, missing }) {
  const rows = parts.map(({ source, term, value }) => [t(PARTS[source]) + (term && `: ${term}`), value.toFixed(3)]);
  const reasons = [...against, ...Object.entries(missing).map(([name, reason]) => `${name}: ${reason}`)];
  const shares = labels.map((one) => [one.label, percent(one)]);
  return [
    labels.length > 0 && h("h3", {}, t("What the model sees")),
    listOf(shares),
    h("details", {},
      h("summary", {}, t("Parts of the score")),
      listOf([...rows, [t("Sum"), score === null ? "–" : score.toFixed(3)]]),
    ),
    reasons.length > 0 && h("ul", { class: "hint", role: "list" }, ...reasons.map((reason) => h("li", {}, reason))),
  ].filter(Boolean);
}

const listOf = (rows) =>
  rows.length > 0 && h("dl", { class: "details" }, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]));

/** Draw a map of cosines, one pixel a cell, on the same scale for all images: the higher, the more opaque. */
function drawn(map) {
  const canvas = h("canvas", { class: "why-map", width: map[0].length, height: map.length, "aria-hidden": "true" });
  const pixels = map.flat().flatMap((value) => [255, 96, 0, 190 * Math.min(1, (value - CLEAR) / (OPAQUE - CLEAR))]);
  const data = new ImageData(Uint8ClampedArray.from(pixels), map[0].length);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}
