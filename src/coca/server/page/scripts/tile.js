// A tile of the wall: image, score, check box, and the actions of an item.

import { button, h, icon, shorten } from "./dom.js";
import { showImage, sideFor, thumbnailPath } from "./thumbnails.js";

/** Name of an item for labels: its caption, or its file name. */
export const labelOf = (item) => shorten(item.caption || item.name || item.id, 120);

/** Score of a hit as a short text; empty without a query. */
export function scoreOf(hit) {
  const probability = hit.match_probability;
  if (probability !== null && probability !== undefined) return `${Math.round(probability * 100)} %`;
  return hit.score === null || hit.score === undefined ? "" : hit.score.toFixed(2);
}

/** Describe all scores of a hit. */
export function scoreTitle(hit) {
  const parts = [
    ["similarity (cosine)", hit.score, 4],
    ["match probability", hit.match_probability, 4],
    ["words of the caption (BM25)", hit.bm25, 1],
    ["log p(text | image) in nats", hit.log_likelihood, 2],
  ];
  const known = parts.filter(([, value]) => value !== null && value !== undefined);
  return known.map(([name, value, digits]) => `${name} ${value.toFixed(digits)}`).join(", ");
}

/** Build an empty tile, for an item that is not loaded. */
export const placeholder = () => h("li", { class: "tile tile-empty", "aria-hidden": "true" });

/**
 * Build the tile of an item; `loadImage` shows its image.
 * @param {object} item an item or a hit
 * @param {{width: number, address: string, actions: object}} options `actions` has the functions
 *   open, select, similar, more and less, each called with the item
 */
export function tile(item, { width, height, address, actions }) {
  const label = labelOf(item);
  const score = scoreOf(item);
  const path = thumbnailPath(item, sideFor(Math.max(width, height)));
  const image = h("img", { alt: "", decoding: "async", draggable: "false", data: { path } });
  image.addEventListener("load", () => image.classList.add("loaded"), { once: true });
  image.addEventListener("error", () => element.classList.add("tile-broken"), { once: true });
  const check = h("input", {
    type: "checkbox",
    tabindex: "-1",
    "aria-label": `Select ${label}`,
    on: {
      click: (event) => {
        event.stopPropagation();
        actions.select(item, event.shiftKey);
      },
    },
  });
  const link = h(
    "a",
    {
      class: "tile-link",
      href: address,
      tabindex: "-1",
      "aria-label": score ? `${label}, ${scoreTitle(item)}` : label,
      on: {
        click: (event) => {
          if (event.metaKey || event.ctrlKey) return;
          event.preventDefault();
          if (event.shiftKey) actions.select(item, true);
          else actions.open(item);
        },
      },
    },
    image,
    h("span", { class: "tile-broken-note" }, icon("broken"), h("span", {}, "no image")),
    h("span", { class: "tile-caption", "aria-hidden": "true" }, item.caption || item.name),
  );
  const act = (name, iconName, action) =>
    button(name, iconName, () => action(item), { tabindex: "-1", "aria-label": `${name}: ${label}` });
  const element = h(
    "li",
    { class: `tile${item.is_match === false ? " tile-weak" : ""}`, data: { id: item.id } },
    link,
    h("label", { class: "tile-check" }, check),
    score && h("span", { class: "tile-score", title: scoreTitle(item), "aria-hidden": "true" }, score),
    h(
      "div",
      { class: "tile-actions" },
      act("Similar", "similar", actions.similar),
      act("More like this", "more", actions.more),
      act("Less like this", "less", actions.less),
    ),
  );
  return element;
}

/** Load the image of a tile, if it has one that is not loaded. */
export function loadImage(element) {
  const image = element.querySelector("img");
  if (image && !image.src) showImage(image, image.dataset.path);
}

/** Stop loading the image of a tile that leaves the page. */
export function discard(element) {
  element.querySelector("img")?.removeAttribute("src");
  element.remove();
}
