// Short messages: toasts that are seen, and announcements for screen readers.

import { $, button, h } from "./dom.js";

const TOAST_MS = 6000;
const MAX_TOASTS = 3;

/** Announce a change to screen readers. */
export function announce(text) {
  const live = $("#live");
  if (live.textContent !== text) live.textContent = text;
}

/** Show a message for some seconds; errors stay until they are closed. */
export function toast(text, { error = false } = {}) {
  const box = $("#toasts");
  for (const shown of box.children) if (shown.firstChild.textContent === text) shown.remove();
  const element = h(
    "div",
    { class: `toast${error ? " toast-error" : ""}`, role: error ? "alert" : null },
    h("p", {}, text),
    button("Close the message", "close", () => element.remove()),
  );
  box.append(element);
  while (box.children.length > MAX_TOASTS) box.firstElementChild.remove();
  if (error) return;
  announce(text);
  setTimeout(() => element.remove(), TOAST_MS);
}

/** Report an error of a request; an aborted request is not an error. */
export function report(error) {
  if (error.name === "AbortError") return;
  if (!error.status && error.status !== 0) console.error(error);
  toast(error.message, { error: true });
}
