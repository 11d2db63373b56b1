// Frames of the video of an opened frame; the wall shows the best one alone.

import { api } from "./api.js";
import { h } from "./dom.js";
import { t } from "./language.js";
import { showImage, thumbnailPath } from "./thumbnails.js";
import { momentOf, videoOf } from "./tile.js";

/** Maximum number of frames that are shown. */
const MOST = 1000;

/** Frames of the video that was opened last. */
let opened = { key: "", frames: null };

/** Build the section of the frames of a view's item; null for an item that is no frame. */
export function framesSection({ item, store }) {
  if (!item.video) return null;
  const { collection } = store.state;
  const key = JSON.stringify([collection, item.hidden, videoOf(item)]);
  if (opened.key !== key) opened = { key, frames: null };
  const current = opened;
  const list = h("div", { class: "frames" });
  const section = h("section", { class: "item-section", "aria-labelledby": "item-frames", hidden: true },
    h("h3", { id: "item-frames" }, t("Frames of the video")), list);
  const open = (frame) => store.set({ item: frame.id, at: store.state.at }, { replace: true });
  const draw = () => {
    section.hidden = current.frames.length < 2;
    list.replaceChildren(...current.frames.map((frame) => tileOf(frame, frame.id === item.id, () => open(frame))));
  };
  if (current.frames) draw();
  else {
    const body = { video: item.id, hidden: item.hidden, group_by: "path", limit: MOST, ...(collection && { collection }) };
    api.search(body).then(({ hits }) => {
      current.frames = hits.sort((one, other) => one.metadata.seconds - other.metadata.seconds);
      draw();
    });
  }
  return section;
}

function tileOf(frame, isCurrent, open) {
  const image = h("img", { alt: "", loading: "lazy" });
  showImage(image, thumbnailPath(frame, 128));
  return h("button", { type: "button", class: "frame", "aria-label": momentOf(frame), "aria-current": isCurrent && "true", on: { click: open } }, image);
}
