// Files that the reader saves: an original or a video, and a ZIP archive of several.

import { openSession, urlOf } from "./api.js";
import { h } from "./dom.js";
import { t } from "./language.js";
import { toast } from "./notices.js";
import { fileOf } from "./tile.js";

/** Save the original of an item as a file of the reader; of a frame, its video. */
export async function saveFile(item) {
  await openSession();
  const link = h("a", { href: urlOf(item.video ?? item.original), download: fileOf(item) });
  document.body.append(link);
  link.click();
  link.remove();
}

/** Save the originals of items as a ZIP archive, which the service streams to the browser. */
export async function saveArchive(ids, collection) {
  await openSession();
  const field = (name, value) => h("input", { type: "hidden", name, value });
  const frame = h("iframe", { name: "archive", hidden: true });
  const form = h("form", { method: "post", action: urlOf("v1/archive"), enctype: "multipart/form-data", target: "archive", hidden: true },
    field("ids", JSON.stringify(ids)), collection && field("collection", collection));
  document.querySelector("iframe")?.remove();
  document.body.append(frame, form);
  // A download loads nothing into the frame, and an error does.
  frame.addEventListener("load", () => toast(t("The archive cannot be read."), { error: true }));
  form.submit();
  form.remove();
}
