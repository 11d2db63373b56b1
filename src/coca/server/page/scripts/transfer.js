// Images that are dropped or pasted: one to search by, or several to add.

import { $, h } from "./dom.js";
import { imageFiles } from "./images.js";
import { t } from "./language.js";

/** Listen to drops and pastes; `onSearch(file)`, `onAdd(files)`, `writable()`, `isEmpty()`. */
export function listenToTransfers({ onSearch, onAdd, writable, isEmpty }) {
  const zone = $("#drop");
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const adds = (event) => writable() && (isEmpty() || event.clientX > innerWidth / 2);
  const hide = () => {
    depth = 0;
    zone.hidden = true;
  };
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event) || document.querySelector("dialog[open]")) return;
    depth += 1;
    if (!zone.hidden) return;
    zone.hidden = false;
    zone.replaceChildren(
      !(writable() && isEmpty()) && h("p", { class: "drop-part" }, t("Drop to search by this image")),
      writable() && h("p", { class: "drop-part" }, t("Drop to add to the collection")),
    );
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) hide();
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    [...zone.children].forEach((part, at) => part.classList.toggle("over", zone.children.length === 1 || at === Number(adds(event))));
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    const add = adds(event);
    hide();
    const files = imageFiles(event.dataTransfer);
    if (!files.length) return;
    if (add) onAdd(files);
    else onSearch(files[0]);
  });
  document.addEventListener("paste", (event) => {
    const [file] = imageFiles(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    onSearch(file);
  });
}
