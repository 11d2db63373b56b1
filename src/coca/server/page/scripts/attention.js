// Word-attention overlay: the words of a caption, and where the model looked at each of them.

import { h } from "./dom.js";
import { t } from "./language.js";

/**
 * Show the words of a caption as buttons; one pressed, hovered or focused shows its map.
 * @param {HTMLElement} frame positioned element that covers the image exactly
 * @param {{word: string, grid: number[][]}[]} maps
 * @param {number[]} region part of the image that the maps cover: left, top, right, bottom, in fractions
 */
export function attentionWords(frame, maps, region) {
  frame.querySelector(".attention")?.remove();
  const canvas = h("canvas", { class: "attention", "aria-hidden": "true", hidden: true });
  const [x0, y0, x1, y1] = region;
  Object.assign(canvas.style, {
    left: `${x0 * 100}%`,
    top: `${y0 * 100}%`,
    width: `${(x1 - x0) * 100}%`,
    height: `${(y1 - y0) * 100}%`,
  });
  frame.append(canvas);
  const heats = contrast(maps.map(({ grid }) => grid));
  let pressed = null;

  const show = (at) => {
    canvas.hidden = at === null;
    frame.classList.toggle("attended", at !== null);
    if (at !== null) draw(canvas, heats[at]);
  };
  const words = maps.map(({ word }, at) => {
    const element = h("button", {
      type: "button", class: "word", "aria-pressed": "false",
      on: {
        click: () => {
          pressed = pressed === at ? null : at;
          words.forEach((one, n) => one.setAttribute("aria-pressed", String(n === pressed)));
          show(pressed);
        },
        mouseenter: () => show(at),
        mouseleave: () => show(pressed),
        focus: () => show(at),
        blur: () => show(pressed),
      },
    }, word);
    return element;
  });
  return h("p", { class: "words", role: "group", "aria-label": t("Words of the caption") }, ...words);
}

// Attention divided by its mean over the words: some patches receive attention for every word.
function contrast(grids) {
  if (grids.length === 1) return grids;
  return grids.map((grid) =>
    grid.map((row, y) =>
      row.map((value, x) => {
        const mean = grids.reduce((sum, one) => sum + one[y][x], 0) / grids.length;
        return mean > 0 ? Math.max(0, value / mean - 0.8) * value : 0;
      }),
    ),
  );
}

function draw(canvas, grid) {
  const [height, width] = [grid.length, grid[0].length];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const most = Math.max(...grid.flat()) || 1;
  grid.flat().forEach((value, at) => {
    const heat = value / most;
    pixels.data.set([255, 110 + 90 * heat, 40, Math.round(200 * heat ** 1.5)], at * 4);
  });
  context.putImageData(pixels, 0, 0);
}
