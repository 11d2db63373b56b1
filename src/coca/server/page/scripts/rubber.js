// Selection by dragging a rectangle over the wall with the mouse.

import { h } from "./dom.js";

const MIN_PX = 8;
const EDGE_PX = 48;
const STEP_PX = 18;

/**
 * Begin a rectangle at a pointer; the images that it touches are selected besides the others.
 * @param {Wall} wall
 * @param {PointerEvent} event its `pointerdown`
 * @param {function()} onDrag called when the pointer has moved, so that its click opens no image
 */
export function dragSelection(wall, event, onDrag) {
  if (event.pointerType !== "mouse" || event.button || event.target.closest("button, input, label")) return;
  const before = wall.selection.items();
  const stop = new AbortController();
  const box = h("div", { class: "rubber", hidden: true });
  const at = ({ clientX, clientY }) => {
    const { left, top } = wall.list.getBoundingClientRect();
    return [clientX - left, clientY - top];
  };
  const [x, y] = at(event);
  let last = event;
  let frame = 0;

  function draw() {
    const [to, down] = at(last);
    const [left, top] = [Math.min(x, to), Math.min(y, down)];
    const [width, height] = [Math.abs(x - to), Math.abs(y - down)];
    if (box.hidden && Math.hypot(width, height) < MIN_PX) return;
    if (box.hidden) {
      onDrag();
      box.hidden = false;
      wall.root.append(box);
    }
    Object.assign(box.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    const touched = wall.blocks.visible(top, top + height, left, left + width);
    wall.selection.replace([...before, ...touched.map((index) => wall.item(index)).filter(Boolean)]);
  }

  // Near an edge of the window the page scrolls on.
  function scroll() {
    const { clientY } = last;
    const by = clientY < EDGE_PX ? -STEP_PX : clientY > innerHeight - EDGE_PX ? STEP_PX : 0;
    if (by && !box.hidden) {
      scrollBy(0, by);
      draw();
    }
    frame = requestAnimationFrame(scroll);
  }

  const on = (name, listener) => addEventListener(name, listener, { signal: stop.signal });
  const end = () => {
    stop.abort();
    cancelAnimationFrame(frame);
    box.remove();
  };
  on("pointermove", (moved) => {
    last = moved;
    draw();
  });
  on("pointerup", end);
  on("pointercancel", end);
  scroll();
}
