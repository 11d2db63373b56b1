// Short messages: toasts that are seen, and announcements for screen readers.

import { $, button, h } from "./dom.js";
import { t } from "./language.js";

const TOAST_MS = 6000;
/** A message with an action is longer there, since it must be reached. */
const ACTION_MS = 15_000;
const MAX_TOASTS = 3;

/** Announce a change to screen readers. */
export function announce(text) {
  const live = $("#live");
  if (live.textContent !== text) live.textContent = text;
}

/**
 * Show a message for some seconds; errors stay until they are closed.
 * @param {string} text
 * @param {{error?: boolean, action?: [string, () => void] | null}} options `action`: label and function of a
 *   button
 */
export function toast(text, { error = false, action = null } = {}) {
  const box = $("#toasts");
  for (const shown of box.children) if (shown.firstChild.textContent === text) shown.remove();
  const act = () => {
    element.remove();
    action[1]();
  };
  const element = h(
    "div",
    {
      class: `toast${error ? " toast-error" : ""}`, role: error ? "alert" : null,
      // A click leaves the focus where it is, and so the keys of an opened image.
      on: { mousedown: (event) => event.preventDefault() },
    },
    h("p", {}, text),
    action && button(action[0], null, act, { text: true, class: "toast-action" }),
    button(t("Close the message"), "close", () => element.remove()),
  );
  box.append(element);
  // What is outside of a modal dialog is behind it, and cannot be clicked.
  const dialog = [...document.querySelectorAll("dialog:modal")].at(-1);
  if (dialog && !dialog.contains(box)) {
    dialog.append(box);
    dialog.addEventListener("close", () => document.body.append(box), { once: true });
  }
  while (box.children.length > MAX_TOASTS) box.firstElementChild.remove();
  if (error) return element;
  announce(text);
  setTimeout(() => element.remove(), action ? ACTION_MS : TOAST_MS);
  return element;
}

/** Report an error of a request; an aborted request is not an error. */
export function report(error) {
  if (error.name === "AbortError") return;
  if (!error.status && error.status !== 0) console.error(error);
  const element = toast(error.message, { error: true });
  // Nobody needs to close that the service was away once it is back.
  if (error.status === 0) addEventListener("answered", () => element.remove(), { once: true });
}
