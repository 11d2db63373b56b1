// Images that are dropped or pasted: one to search by, or several to add.

import { $, h } from "./dom.js";
import { imageFiles } from "./images.js";

/** Listen to drops and pastes; `onSearch(file)`, `onAdd(files)`, `writable()`. */
export function listenToTransfers({ onSearch, onAdd, writable }) {
  const zone = $("#drop");
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const adds = (event) => writable() && event.clientX > innerWidth / 2;
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
      h("p", { class: "drop-part" }, "Drop to search by this image"),
      writable() && h("p", { class: "drop-part" }, "Drop to add to the collection"),
    );
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) hide();
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    [...zone.children].forEach((part, at) => part.classList.toggle("over", at === Number(adds(event))));
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
