// Builds elements without parsing HTML, so that no text of a collection becomes markup.

import { t } from "./language.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * Build an element.
 * @param {string} tag
 * @param {{[name: string]: any}} props `class`, `on` (listeners), `data`; other keys are properties or attributes;
 *   null, undefined and false are left out.
 * @param {...any} children nodes and texts; null, undefined and false are left out
 * @returns {any} an element of the tag
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) {
        element.addEventListener(event, listener);
      }
    } else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  const isShown = (child) => child !== null && child !== undefined && child !== false;
  element.append(...children.flat().filter(isShown));
  return element;
}

/** Build an icon of the sprite; it is decorative, the button has the label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/**
 * Build a button with an icon; without a text, the label is its name and tooltip.
 * @param {string} label
 * @param {string | null} iconName
 * @param {((event: Event) => void) | null} onClick
 * @param {{[name: string]: any}} options `text`: whether the label is shown; other keys are those of `h`
 */
export function button(label, iconName, onClick, { text = false, ...props } = {}) {
  const content = [iconName && icon(iconName), text && h("span", {}, label)];
  const names = text ? {} : { "aria-label": label, title: label };
  const style = `button ${text ? "" : "button-icon"} ${props.class ?? ""}`.trim();
  return h("button", { type: "button", ...names, ...props, class: style, on: onClick ? { click: onClick } : {} },
    ...content,
  );
}

/**
 * Build a menu of buttons with words, and the button that opens it.
 * @param {string} id
 * @param {...any} actions buttons; false is left out
 */
export function menu(id, ...actions) {
  const list = h("div", { id, class: "menu", popover: "", on: { click: () => list.hidePopover() } }, ...actions);
  return [button(t("More"), null, null, { text: true, class: "menu-button", popovertarget: id }), list];
}

/** @type {(selector: string, root?: ParentNode) => any} */
export const $ = (selector, root = document) => root.querySelector(selector);

/** Shorten a text to at most `length` characters. */
export const shorten = (text, length) =>
  text.length > length ? `${text.slice(0, length - 1).trimEnd()}…` : text;
