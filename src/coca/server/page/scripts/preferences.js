// What this browser remembers: color theme, size of the tiles, and whether details are shown.

import { button, h } from "./dom.js";
import { t } from "./language.js";

const THEME = "coca.theme";
const SIZE = "coca.size";
const DETAILS = "coca.details";
const THEMES = ["auto", "light", "dark"];
const ICONS = { auto: "auto", light: "sun", dark: "moon" };
const SIZES = { min: 90, max: 360, usual: 200, phone: 130 };

/** Build the button that changes the color theme. */
export function themeButton() {
  const current = () => document.documentElement.dataset.theme ?? "auto";
  const build = () => {
    const theme = current();
    const label = t("Color theme: {theme}", { theme: t(theme === "auto" ? "as the system" : theme) });
    return button(label, ICONS[theme], () => {
      const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      if (next === "auto") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
      localStorage.setItem(THEME, next);
      const fresh = build();
      element.replaceWith(fresh);
      element = fresh;
    }, { id: "theme", text: true });
  };
  let element = build();
  return element;
}

/** Return whether the details of an opened item are shown. */
export const showsDetails = () => document.documentElement.dataset.details === "open";

/** Show or hide the details of opened items; returns whether they are shown. */
export function toggleDetails() {
  const saved = showsDetails() ? "closed" : "open";
  document.documentElement.dataset.details = saved;
  localStorage.setItem(DETAILS, saved);
  return showsDetails();
}

/** Return the height of the rows of the wall, in CSS pixels. */
export function rowHeight() {
  const phone = matchMedia("(max-width: 760px)").matches;
  const saved = Number(localStorage.getItem(SIZE));
  return saved >= SIZES.min && saved <= SIZES.max ? saved : phone ? SIZES.phone : SIZES.usual;
}

/** Build the control of the size of the tiles; `onChange` is called after each change. */
export function sizeControl(onChange) {
  const range = h("input", {
    type: "range", class: "size-range", min: SIZES.min, max: SIZES.max, step: "10", value: rowHeight(),
    "aria-label": t("Size of the images"), title: t("Size of the images"),
    on: {
      change: () => {
        localStorage.setItem(SIZE, range.value);
        onChange();
      },
    },
  });
  return range;
}
