// A tile of the wall: image, reason, check box, and the actions of an item.

import { $, button, h, icon, shorten } from "./dom.js";
import { t } from "./language.js";
import { lineOf } from "./reasons.js";
import { dropImage, showImage, sideFor, thumbnailPath } from "./thumbnails.js";

/** Tag of favourites. */
export const FAVOURITE = "favourite";

export const isFavourite = (item) => item.tags.includes(FAVOURITE);

/** Write the moment of a frame in its video, such as 1:05; empty for other items. */
export const momentOf = ({ video, metadata: { seconds } }) =>
  (video ? `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}` : "");

/** Name of an item's file; of a frame, that of its video. */
export const fileOf = ({ id, name, video }) => (video ? name.replace(/#t=[\d.]+$/, "") : name) || id;

/** Key of the video of a frame; empty for other items. */
export const videoOf = (item) => (item?.video ? `${item.album}/${fileOf(item)}` : "");

/** Name of an item: its caption, or its file; of a frame, with its moment. */
export const nameOf = (item) => item.caption || [fileOf(item), momentOf(item)].filter(Boolean).join(", ");

/** Name of an item for labels. */
export const labelOf = (item) => shorten(nameOf(item), 120);

/**
 * Build the tile of an item; its `approach(isNear)` starts and stops loading its image.
 * @param {any} item an item or a hit
 * @param {{width, height, address, asked, actions}} options `asked`: text of the query. `actions`:
 *   select, similar, more and less, each called with the item
 */
export function tile(item, { width, height, address, asked, actions }) {
  const label = labelOf(item);
  const line = lineOf(item, asked);
  // A tile shows the middle of a panorama, whose sides exceed its own.
  const ratio = item.width / item.height || 1;
  const path = thumbnailPath(item, sideFor(Math.max(width, height, height * ratio, width / ratio)));
  const image = h("img", { alt: "", decoding: "async", draggable: "false" });
  image.addEventListener("load", () => {
    image.classList.add("loaded");
    element.classList.remove("tile-broken");
  });
  const fail = () => {
    if (!$(".tile-broken-note", link)) link.append(h("span", { class: "tile-broken-note" }, icon("broken"), h("span", {}, t("no image"))));
    element.classList.add("tile-broken");
  };
  const check = h("input", {
    type: "checkbox", tabindex: "-1", "aria-label": t("Select {name}", { name: label }),
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
      class: "tile-link", href: address, tabindex: "-1", draggable: "false", "aria-label": label,
      "aria-describedby": line.length > 0 && `why-${item.id}`,
      on: {
        click: (event) => {
          if (!event.shiftKey) return;
          event.preventDefault();
          actions.select(item, true);
        },
      },
    },
    image,
  );
  const element = h("li", { class: "tile", data: { id: item.id } },
    link,
    h("label", { class: "tile-check" }, check),
    item.video && h("span", { class: "tile-video" }, icon("play"), momentOf(item)),
    isFavourite(item) && h("span", { class: "tile-favourite" }, icon("heart")),
    line.length > 0 && h("span", { class: "tile-why", id: `why-${item.id}` }, ...line),
  );
  // What passes by before it is loaded is not loaded.
  element.approach = (isNear) => {
    if (isNear && image.dataset.path !== path) showImage(image, path, fail);
    else if (!isNear && !image.classList.contains("loaded")) dropImage(image);
  };
  // Of a hundred tiles a few are pointed at; building these parts of all would delay each search.
  const complete = () => {
    if ($(".tile-actions", element)) return;
    const act = (name, iconName, action) =>
      button(name, iconName, () => action(item), { tabindex: link.tabIndex, "aria-label": `${name}: ${label}` });
    link.append(h("span", { class: "tile-caption", "aria-hidden": "true" }, nameOf(item)));
    element.append(h("div", { class: "tile-actions" },
      act(t("Similar"), "similar", actions.similar),
      act(t("More like this"), "like", actions.more),
      act(t("Less like this"), "unlike", actions.less),
    ));
  };
  for (const name of ["pointerenter", "focusin"]) element.addEventListener(name, complete);
  // Until the thumbnail is there.
  if (item.color) element.style.background = item.color;
  return element;
}

/** Remove a tile from the page, and stop loading its image. */
export function discard(element) {
  const image = element.querySelector("img");
  element.remove();
  if (image) dropImage(image);
}
