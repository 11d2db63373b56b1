// Modal dialogs: a confirmation, a text, and any content.

import { button, h } from "./dom.js";
import { count, t } from "./language.js";

/** Open a modal dialog with a title; it removes itself when it is closed. */
export function openDialog(title, content, { style = "", onClose = () => {} } = {}) {
  const name = `dialog-${crypto.randomUUID?.() ?? Math.random()}`;
  const dialog = h(
    "dialog",
    { class: `dialog ${style}`.trim(), "aria-labelledby": name },
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id: name }, title),
      button(t("Close"), "close", () => dialog.close(), { class: "dialog-close" }),
    ),
    content,
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose(dialog.returnValue);
  });
  // A click on the backdrop has the dialog itself as its target.
  dialog.addEventListener("pointerdown", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask for a confirmation. */
export function confirmDialog(title, text, action) {
  return new Promise((resolve) => {
    const content = h(
      "form",
      { method: "dialog" },
      h("p", { class: "dialog-text" }, text),
      h(
        "div",
        { class: "dialog-actions" },
        h("button", { class: "button", value: "", autofocus: true }, t("Cancel")),
        h("button", { class: "button button-danger", value: "yes" }, action),
      ),
    );
    openDialog(title, content, { onClose: (value) => resolve(value === "yes") });
  });
}

/**
 * Ask before items are deleted for good: the service deletes the files of uploads with them.
 * @param {string} name Names the items in the text.
 */
export function confirmDeletion(name, items) {
  const uploads = items.filter(({ uploaded }) => uploaded).length;
  let files = t("The files stay where they are.");
  if (uploads && uploads === items.length) files = t(uploads === 1 ? "The uploaded file is deleted, too." : "The uploaded files are deleted, too.");
  else if (uploads) files = t("{files} will be deleted, too; the other files stay where they are.", { files: count(uploads, "uploaded file") });
  else if (items.length === 1) files = t("The file stays where it is.");
  const title = items.length === 1
    ? t("Delete this image?")
    : t("Delete {images}?", { images: count(items.length, "image") });
  const text = t("{name} will be removed from the collection for good. {files}", { name, files });
  return confirmDialog(title, text, t("Delete"));
}

/**
 * Ask for a text; resolves to null if the dialog is cancelled.
 * @param {{label, action, value, hint, error, suggestions, type}} options `error`: what was wrong
 *   with the text before
 */
export function promptDialog(title, options) {
  const { label, action, value = "", hint = "", error = "", suggestions = [], type = "text" } = options;
  return new Promise((resolve) => {
    const list = h(
      "datalist",
      { id: "dialog-suggestions" },
      ...suggestions.map((text) => h("option", { value: text })),
    );
    const input = h("input", {
      class: "field", id: "dialog-input", type, value, list: "dialog-suggestions", autofocus: true,
      autocomplete: "off", "aria-describedby": hint ? "dialog-hint" : null,
    });
    const content = h(
      "form",
      { method: "dialog" },
      h("label", { class: "field-label", for: "dialog-input" }, label),
      input,
      list,
      error && h("p", { class: "field-error", role: "alert" }, error),
      hint && h("p", { class: "hint", id: "dialog-hint" }, hint),
      h(
        "div",
        { class: "dialog-actions" },
        h("button", { class: "button", type: "button", on: { click: () => dialog.close() } }, t("Cancel")),
        h("button", { class: "button button-primary", value: "yes" }, action),
      ),
    );
    const dialog = openDialog(title, content, {
      onClose: (answer) => resolve(answer === "yes" ? input.value.trim() : null),
    });
    input.select();
  });
}
