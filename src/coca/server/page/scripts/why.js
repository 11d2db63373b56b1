// Why an image is among the hits: parts of its score, labels, and words of the query over the image.

import { api } from "./api.js";
import { $, button, h } from "./dom.js";
import { imageOf } from "./images.js";
import { t } from "./language.js";
import { report } from "./notices.js";
import { hasQuery, itself, queryOf, scopeOf } from "./state.js";
import { reasonOf } from "./tile.js";

/** Part of a score -> its name. */
const PARTS = { image: "Image", caption: "Caption", words: "Words", text: "Labels and text", likelihood: "Likelihood" };

/**
 * Support of a word, in nats, from which on an image probably shows it: of 200 photos, 88 % have it for
 * the name of their class, and 4 % for another name; 96 % and 14 % are above 0.
 */
const LIKELY = 3;
/** Cosines of a word and a cell that are drawn as nothing, and as most opaque, fitted to the same photos. */
const [CLEAR, OPAQUE] = [0.05, 0.17];

/** Whether the explanation is open, also of the next item. */
let isOpen = false;

/** Build the section of the item of a view; null without a query. */
export function whyOf(view) {
  const { item, store } = view;
  const { state } = store;
  if (!hasQuery(state)) return null;
  const shown = h("div", { class: "why", "aria-live": "polite" });
  const load = async () => {
    isOpen = opener.open;
    $(".why-map")?.remove();
    if (!isOpen || shown.firstChild) return;
    const scope = scopeOf(state);
    const where = [...scope.where, ...itself(state)];
    try {
      const why = await api.explain({ ...scope, where, ...queryOf(state, imageOf), item: item.id });
      shown.replaceChildren(...explained(why));
    } catch (error) {
      report(error);
    }
  };
  const opener = h("details", { class: "why-opener", open: isOpen, on: { toggle: load } }, h("summary", {}, t("Why?")), shown);
  return h("section", { class: "item-section", "aria-label": t("Why this image?") },
    item.reason && h("p", {}, item.likely === false ? t("Probably not") : reasonOf(item), " ", view.writable() && correctionOf(view)),
    opener,
  );
}

/** Build the button that corrects a wrong reason; false if it is neither a tag nor the caption. */
function correctionOf(view) {
  const tag = view.item.tags.find((name) => view.item.reason === `tag: ${name}`);
  if (tag) return button(t("Wrong tag? Remove"), null, () => view.change({ remove_tags: [tag] }), { text: true });
  const edit = () => $(".caption-form textarea", view.view).focus();
  return view.item.reason === "caption" && button(t("Correct the caption"), null, edit, { text: true });
}

function explained({ parts, score, labels, words, against, missing }) {
  const rows = parts.map(({ source, term, value }) => [t(PARTS[source]) + (term && `: ${term}`), value.toFixed(3)]);
  const reasons = [...against, ...Object.entries(missing).map(([name, reason]) => `${name}: ${reason}`)];
  const shares = labels.map(({ label, probability }) => [label, `${Math.round(100 * probability)} %`]);
  return [
    words.length > 0 && h("h3", {}, t("Words in the image")),
    words.length > 0 && h("ul", { class: "tags", role: "list" }, ...words.map((word) => h("li", {}, wordOf(word)))),
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

/** Build the button of a word, which shows where it is in the image; a word that is not seen has no place. */
function wordOf({ word, support, map }) {
  const isSeen = support > 0;
  const label = isSeen ? t(support >= LIKELY ? "{word}: likely" : "{word}: perhaps", { word }) : t("{word}: not seen", { word });
  if (!map || !isSeen) return h("span", { class: isSeen ? "why-word" : "why-word why-against" }, label);
  const show = (on) => () => {
    $(".why-map")?.remove();
    if (on) $(".item-frame").append(drawn(map));
  };
  const on = { pointerenter: show(true), focus: show(true), click: show(true), pointerleave: show(false), blur: show(false) };
  return h("button", { type: "button", class: "why-word", title: t("Show {word} in the image", { word }), on }, label);
}

/** Draw a map of cosines, one pixel a cell, on the same scale for all images: the higher, the more opaque. */
function drawn(map) {
  const canvas = h("canvas", { class: "why-map", width: map[0].length, height: map.length, "aria-hidden": "true" });
  const pixels = map.flat().flatMap((value) => [255, 96, 0, 190 * Math.min(1, (value - CLEAR) / (OPAQUE - CLEAR))]);
  const data = new ImageData(Uint8ClampedArray.from(pixels), map[0].length);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}
