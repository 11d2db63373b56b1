// Images of items as sources of <img>: plain URLs, or blobs where the service requires a key.

import { api, apiKey, urlOf } from "./api.js";

const SIDES = [128, 256, 512, 1024];
const MAX_BLOBS = 600;

const blobs = new Map();

/** Return the smallest offered side that covers `pixels` of the screen. */
export function sideFor(pixels) {
  const needed = pixels * Math.min(devicePixelRatio || 1, 2);
  return SIDES.find((side) => side >= needed) ?? SIDES.at(-1);
}

export const thumbnailPath = (item, side) => `${item.thumbnail}&side=${side}`;

/** Show an image of the service; `path` is a thumbnail or an original. */
export function showImage(img, path) {
  img.dataset.path = path;
  if (!apiKey.get()) {
    img.src = urlOf(path);
    return;
  }
  blobOf(path).then(
    (url) => {
      if (img.dataset.path === path) img.src = url;
    },
    () => img.dispatchEvent(new Event("error")),
  );
}

// An <img> sends no Authorization header.
async function blobOf(path) {
  const known = blobs.get(path);
  if (known) {
    blobs.delete(path);
    blobs.set(path, known);
    return known;
  }
  const url = URL.createObjectURL(await api.blob(path));
  blobs.set(path, url);
  if (blobs.size > MAX_BLOBS) {
    const [oldest, old] = blobs.entries().next().value;
    blobs.delete(oldest);
    URL.revokeObjectURL(old);
  }
  return url;
}
