// What this browser remembers: color theme, layout and size of the tiles.

import { button, h } from "./dom.js";
import { t } from "./language.js";

const THEME = "coca.theme";
const LAYOUT = "coca.layout";
const SIZE = "coca.size";
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
      fresh.focus();
    }, { id: "theme" });
  };
  let element = build();
  return element;
}

/** Return the layout of the wall and the height of its rows, in CSS pixels. */
export function tileSize() {
  const phone = matchMedia("(max-width: 760px)").matches;
  const saved = Number(localStorage.getItem(SIZE));
  const height = saved >= SIZES.min && saved <= SIZES.max ? saved : phone ? SIZES.phone : SIZES.usual;
  return { height, square: localStorage.getItem(LAYOUT) === "grid" };
}

/** Build the controls of the wall's layout; `onChange` is called after each change. */
export function viewControls(root, onChange) {
  const { height, square } = tileSize();
  const range = h("input", {
    type: "range", class: "size-range", min: SIZES.min, max: SIZES.max, step: "10", value: height,
    "aria-label": t("Size of the images"), title: t("Size of the images"),
    on: {
      change: () => {
        localStorage.setItem(SIZE, range.value);
        onChange();
      },
    },
  });
  const layout = (name, label, pressed) =>
    button(label, name, () => {
      localStorage.setItem(LAYOUT, name);
      viewControls(root, onChange);
      root.querySelector(`.layout-${name}`).focus();
      onChange();
    }, { class: `layout-${name}`, "aria-pressed": String(pressed) });
  root.replaceChildren(
    range,
    h(
      "div",
      { class: "layouts", role: "group", "aria-label": t("Layout") },
      layout("justified", t("Rows of whole images"), !square),
      layout("grid", t("Grid of squares"), square),
    ),
  );
}
