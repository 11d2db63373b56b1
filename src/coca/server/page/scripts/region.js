// Draws a region on an image, by pointer or by keys.

import { button, h } from "./dom.js";
import { t } from "./language.js";

const STEP = 0.02;
const MIN_SIDE = 0.03;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/**
 * Let the reader draw a region on an image.
 * @param {HTMLElement} frame positioned element that covers the image exactly
 * @param {{start: number[]|null, action: string, onDone: function(number[]), onCancel: function()}}
 *   options
 * @returns {function()} removes the drawing
 */
export function drawRegion(frame, { start, action, onDone, onCancel }) {
  let region = start ?? [0.25, 0.25, 0.75, 0.75];
  const box = h("div", {
    class: "region-box",
    tabindex: "0",
    role: "group",
    "aria-label": t("Region of the image. Arrow keys move it, Shift and arrow keys resize it."),
    on: { keydown: key },
  });
  const layer = h("div", { class: "region-layer", on: { pointerdown: pointerDown } }, box);
  const bar = h(
    "div",
    { class: "region-bar" },
    h("p", { class: "hint" }, t("Draw a rectangle on the image")),
    button(t("Cancel"), null, cancel, { text: true }),
    button(action, null, () => finish(), { text: true, class: "button-primary" }),
  );
  frame.append(layer);
  frame.parentElement.append(bar);
  show();
  box.focus({ preventScroll: true });

  function show() {
    const [x0, y0, x1, y1] = region.map((side) => side * 100);
    Object.assign(box.style, {
      left: `${x0}%`,
      top: `${y0}%`,
      width: `${x1 - x0}%`,
      height: `${y1 - y0}%`,
    });
  }

  function pointerDown(event) {
    if (event.button) return;
    event.preventDefault();
    layer.setPointerCapture(event.pointerId);
    const at = (move) => {
      const area = layer.getBoundingClientRect();
      return [
        clamp((move.clientX - area.left) / area.width, 0, 1),
        clamp((move.clientY - area.top) / area.height, 0, 1),
      ];
    };
    const [x, y] = at(event);
    const before = region;
    const move = (moved) => {
      const [to, down] = at(moved);
      region = [Math.min(x, to), Math.min(y, down), Math.max(x, to), Math.max(y, down)];
      show();
    };
    const up = () => {
      layer.removeEventListener("pointermove", move);
      // A click without a movement draws nothing.
      if (region[2] - region[0] < MIN_SIDE || region[3] - region[1] < MIN_SIDE) region = before;
      show();
      box.focus({ preventScroll: true });
    };
    layer.addEventListener("pointermove", move);
    layer.addEventListener("pointerup", up, { once: true });
  }

  function key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter") finish(event);
    else if (event.key === "Escape") cancel(event);
    else if (event.key in moves) {
      event.preventDefault();
      event.stopPropagation();
      const [dx, dy] = moves[event.key].map((step) => step * STEP);
      const [x0, y0, x1, y1] = region;
      if (event.shiftKey) {
        region = [x0, y0, clamp(x1 + dx, x0 + MIN_SIDE, 1), clamp(y1 + dy, y0 + MIN_SIDE, 1)];
      } else {
        const [right, down] = [clamp(dx, -x0, 1 - x1), clamp(dy, -y0, 1 - y1)];
        region = [x0 + right, y0 + down, x1 + right, y1 + down];
      }
      show();
    }
  }

  function finish(event) {
    event?.preventDefault();
    event?.stopPropagation();
    close();
    onDone(region.map((side) => Math.round(side * 1000) / 1000));
  }

  function cancel(event) {
    event?.preventDefault();
    event?.stopPropagation();
    close();
    onCancel();
  }

  function close() {
    layer.remove();
    bar.remove();
  }

  return close;
}
