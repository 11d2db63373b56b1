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

/** Build the section of the item of a view; null without a query. */
export function whyOf({ item, store }) {
  const { state } = store;
  if (!hasQuery(state)) return null;
  const shown = h("div", { class: "why", "aria-live": "polite" });
  const open = async () => {
    const scope = scopeOf(state);
    const where = [...scope.where, ...itself(state)];
    try {
      const why = await api.explain({ ...scope, where, ...queryOf(state, imageOf), item: item.id });
      shown.replaceChildren(...explained(why));
    } catch (error) {
      report(error);
    }
  };
  return h("section", { class: "item-section", "aria-label": t("Why this image?") },
    item.reason && h("p", { class: "hint" }, item.likely === false ? t("Probably not") : reasonOf(item)),
    button(t("Why?"), null, open, { text: true }),
    shown,
  );
}

function explained({ parts, score, labels, words, against, missing }) {
  const rows = parts.map(({ source, term, value }) => [t(PARTS[source]) + (term && `: ${term}`), value.toFixed(3)]);
  const reasons = [...against, ...Object.entries(missing).map(([name, reason]) => `${name}: ${reason}`)];
  const shares = labels.map(({ label, probability }) => [label, `${Math.round(100 * probability)} %`]);
  return [
    h("h3", {}, t("Parts of the score")),
    listOf([...rows, [t("Sum"), score === null ? "–" : score.toFixed(3)]]),
    labels.length > 0 && h("h3", {}, t("What the model sees")),
    listOf(shares),
    words.length > 0 && h("h3", {}, t("Words in the image")),
    words.length > 0 && h("ul", { class: "tags", role: "list" }, ...words.map((word) => h("li", {}, wordOf(word)))),
    reasons.length > 0 && h("ul", { class: "hint", role: "list" }, ...reasons.map((reason) => h("li", {}, reason))),
  ].filter(Boolean);
}

const listOf = (rows) =>
  rows.length > 0 && h("dl", { class: "details" }, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]));

/** Build the button of a word, which shows where it is in the image. */
function wordOf({ word, support, map }) {
  const label = `${word} ${support < 0 ? "−" : "+"}${Math.abs(support).toFixed(1)}`;
  const name = support < 0 ? "why-word why-against" : "why-word";
  if (!map) return h("span", { class: name }, label);
  const show = (on) => () => {
    $(".why-map")?.remove();
    if (on) $(".item-frame").append(drawn(map));
  };
  const on = { pointerenter: show(true), focus: show(true), click: show(true), pointerleave: show(false), blur: show(false) };
  return h("button", { type: "button", class: name, title: t("Show {word} in the image", { word }), on }, label);
}

/** Draw a map of cosines, one pixel a cell: the higher, the more opaque. */
function drawn(map) {
  const canvas = h("canvas", { class: "why-map", width: map[0].length, height: map.length, "aria-hidden": "true" });
  const values = map.flat();
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const pixels = values.flatMap((value) => [255, 96, 0, (190 * (value - least)) / (most - least || 1)]);
  const data = new ImageData(Uint8ClampedArray.from(pixels), map[0].length);
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}
