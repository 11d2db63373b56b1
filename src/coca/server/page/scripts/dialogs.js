// Modal dialogs: a confirmation, a text, and any content.

import { button, h } from "./dom.js";
import { t } from "./language.js";

let opened = 0;

/** Open a modal dialog with a title; it removes itself when it is closed. */
export function openDialog(title, content, onClose = (/** @type {string} */ _value) => {}) {
  opened += 1;
  const name = `dialog-${opened}`;
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": name },
    h("div", { class: "dialog-head" },
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

/** Build the buttons of a form in a dialog; Enter in a field presses the last one. */
const actionsOf = (action) =>
  h("div", { class: "dialog-actions" },
    h("button", { class: "button", type: "button", autofocus: true, on: { click: ({ target }) => target.closest("dialog").close() } }, t("Cancel")),
    h("button", { class: "button button-primary", value: "yes" }, action),
  );

/** Ask for a confirmation. */
export function confirmDialog(title, text, action) {
  return new Promise((resolve) => {
    const content = h("form", { method: "dialog" },
      h("p", { class: "dialog-text" }, text),
      actionsOf(action),
    );
    openDialog(title, content, (value) => resolve(value === "yes"));
  });
}

/**
 * Ask for a text; resolves to null if the dialog is cancelled.
 * @param {{label: string, action: string, hint?: string, error?: string, type?: string}} options `error`: what was wrong with the text before
 */
export function promptDialog(title, options) {
  const { label, action, hint = "", error = "", type = "text" } = options;
  return new Promise((resolve) => {
    const input = h("input", {
      class: "field", id: "dialog-input", type, autofocus: true,
      autocomplete: "off", "aria-describedby": hint ? "dialog-hint" : null,
    });
    const content = h("form", { method: "dialog" },
      h("label", { class: "field-label", for: "dialog-input" }, label),
      input,
      error && h("p", { class: "field-error", role: "alert" }, error),
      hint && h("p", { class: "hint", id: "dialog-hint" }, hint),
      actionsOf(action),
    );
    openDialog(title, content, (answer) => resolve(answer === "yes" ? input.value.trim() : null));
  });
}
