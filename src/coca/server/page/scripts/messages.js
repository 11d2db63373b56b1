// States of the wall without images: nothing indexed, an invalid query.

import { button, h } from "./dom.js";
import { t } from "./language.js";
import { hasFilters, hasQuery } from "./state.js";

/** Show a message in place of the wall. */
export function showMessage(root, title, text, ...actions) {
  root.hidden = false;
  root.replaceChildren(
    h("div", { class: "empty" }, h("h2", {}, title), text && h("p", {}, text), h("div", { class: "empty-actions" }, ...actions)),
  );
}

export function hideMessage(root) {
  root.hidden = true;
  root.replaceChildren();
}

/** Name a query for messages. */
export function queryName({ text, terms }) {
  if (text) return `“${text}”`;
  const [first] = terms.filter(({ sign }) => sign > 0);
  if (!first) return t("this query");
  if (first.kind === "text") return `“${first.value}”`;
  return t("this image");
}

/** Show why a result has no items. */
export function showNoItems(root, store, { writable, add }) {
  const { state } = store;
  const primary = { text: true, class: "button-primary" };
  if (hasFilters(state)) {
    const clear = button(t("Clear the filters"), null, () => store.set({ tags: [], values: {}, from: "", to: "" }), primary);
    showMessage(root, t("No images with these filters"), t("Remove a filter to see more."), clear);
  } else if (hasQuery(state)) {
    showMessage(root, t("No images found"), t("This collection has nothing to compare with."));
  } else if (state.hidden) {
    showMessage(root, t("No image is hidden"), "", button(t("All images"), "left", () => store.set({ hidden: false }), primary));
  } else if (writable) {
    const choose = button(t("Add images"), "upload", add, primary);
    showMessage(root, t("No images yet"), t("Drop images here, and search them by what they show."), choose);
    root.firstElementChild.classList.add("empty-drop");
  } else showMessage(root, t("No images yet"), t("This collection is empty."));
}

/** Return why a query cannot be sent, as title and text; null if it can. */
export function faultOf({ text, terms }, imageOf) {
  if (terms.some(({ kind, value }) => kind === "image" && !imageOf(value))) {
    return [t("The image of this query is gone"), t("It was chosen in another browser tab. Remove it, or choose it again.")];
  }
  if (!text && terms.length && terms.every(({ sign }) => sign < 0)) {
    return [t("Add something to look for"), t("The query only excludes. Describe what you want to see more of.")];
  }
  return null;
}
