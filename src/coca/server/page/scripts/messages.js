// States of the wall without images: weak matches, nothing indexed, an invalid query.

import { button, h } from "./dom.js";
import { hasFilters, hasQuery } from "./state.js";

/** Show a message in place of the wall. */
export function showMessage(root, title, text, ...actions) {
  root.hidden = false;
  root.replaceChildren(
    h("div", { class: "empty" }, h("h2", {}, title), text && h("p", {}, text), h("div", { class: "empty-actions" }, ...actions)),
  );
}

/** Show a line above the wall. */
export function showNote(root, text, ...actions) {
  root.hidden = false;
  root.replaceChildren(h("div", { class: "note-line" }, h("p", {}, text), ...actions));
}

export function hideMessage(root) {
  root.hidden = true;
  root.replaceChildren();
}

const emptyFilters = { tags: [], values: {}, from: "", to: "", filter: "" };

/** Name a query for messages. */
export function queryName({ text, terms }) {
  if (text) return `“${text}”`;
  const [first] = terms.filter(({ sign }) => sign > 0);
  if (!first) return "this query";
  if (first.kind === "text") return `“${first.value}”`;
  return first.region ? "this region" : "this image";
}

/** Show why a result has no items. */
export function showNoItems(root, store, { writable, add }) {
  const { state } = store;
  if (hasFilters(state)) {
    showMessage(
      root, "No images with these filters", "Remove a filter to see more.",
      button("Clear the filters", null, () => store.set(emptyFilters), { text: true, class: "button-primary" }),
    );
  } else if (hasQuery(state)) {
    showMessage(root, "No images found", "This collection has nothing to compare with.");
  } else {
    showMessage(
      root, "No images yet", writable ? "Add images to search them by what they show." : "This collection is empty.",
      writable && button("Add images", "upload", add, { text: true, class: "button-primary" }),
    );
  }
}

/** Return why a query cannot be sent, as title and text; null if it can. */
export function faultOf({ text, terms }, imageOf) {
  if (terms.some(({ kind, value }) => kind === "image" && !imageOf(value))) {
    return ["The image of this query is gone", "It was chosen in another browser tab. Remove it, or choose it again."];
  }
  if (!text && terms.length && terms.every(({ sign }) => sign < 0)) {
    return ["Add something to look for", "The query only excludes. Describe what you want to see more of."];
  }
  return null;
}
