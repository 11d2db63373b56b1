// Images that are dropped or pasted: one to search by, or several to add.

import { $, h } from "./dom.js";
import { imageFiles } from "./images.js";
import { t } from "./language.js";
import { toast } from "./notices.js";

/** Listen to drops and pastes; `onSearch(file)`, `onAdd(files)`, `writable()`, `isEmpty()`. */
export function listenToTransfers({ onSearch, onAdd, writable, isEmpty }) {
  const zone = $("#drop");
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event) || document.querySelector("dialog[open]")) return;
    depth += 1;
    if (!zone.hidden) return;
    zone.hidden = false;
    const text = isEmpty() ? "Drop to add to the collection" : "Drop an image to search by it, or several to add them";
    zone.replaceChildren(h("p", {}, t(writable() ? text : "Drop to search by this image")));
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) zone.hidden = true;
  });
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (document.querySelector("dialog[open]")) return;
    depth = 0;
    zone.hidden = true;
    const files = imageFiles(event.dataTransfer);
    if (writable() && files.length && (isEmpty() || files.length > 1)) onAdd(files);
    else if (files.length) onSearch(files[0]);
    else toast(t("None of these files is an image."), { error: true });
  });
  document.addEventListener("paste", (event) => {
    const [file] = imageFiles(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    onSearch(file);
  });
}
