// Keys of the page, and the dialog that lists them.

import { h } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { t } from "./language.js";

const KEYS = [
  ["/", "Search"],
  ["← ↑ → ↓", "Move between images"],
  ["Enter", "Open an image, or search"],
  ["X", "Select an image; with Shift, all up to it"],
  ["Esc", "Close, or clear the selection"],
  ["F", "Show or hide the filters"],
  ["Delete", "Hide the selected images"],
  ["+ - 0", "Enlarge an opened image, or show all of it"],
  ["L", "Mark an opened image as a favourite"],
  ["I", "Show or hide the details"],
  ["?", "Show these keys"],
];

export function showKeys() {
  const rows = KEYS.flatMap(([key, action]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, t(action))]);
  openDialog(t("Keys"), h("dl", { class: "keys" }, ...rows));
}

/** Key of an event; of a letter the small one, also with Shift or Caps Lock. */
export const letterOf = ({ key }) => (key.length === 1 ? key.toLowerCase() : key);

const isTyping = (target) =>
  target.matches?.("input:not([type=checkbox], [type=range], [type=radio]), textarea, select");

/**
 * Listen to the keys that work everywhere outside of dialogs and fields.
 * @param {{search, filters, wall, selection, bar}} parts
 */
export function listenToKeys({ search, filters, wall, selection, bar }) {
  document.addEventListener("keydown", (/** @type {any} */ event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    if (isTyping(event.target)) {
      if (event.key !== "Escape" || event.target !== search) return;
      // Escape would empty the field.
      event.preventDefault();
      wall.focusCurrent();
      return;
    }
    const actions = {
      "/": () => search.select(),
      "?": showKeys,
      f: () => filters.open(!filters.shown),
      Escape: () => selection.clear(),
    };
    if (bar.writable() && selection.size) actions.Delete = () => bar.hide();
    if (event.target === document.body || event.target.id === "results") {
      for (const key of ["ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft"]) actions[key] = () => wall.focusCurrent();
    }
    const action = actions[letterOf(event)];
    if (!action) return;
    if (event.key !== "Escape") event.preventDefault();
    if (event.key === "/") search.focus();
    action();
  });
}
