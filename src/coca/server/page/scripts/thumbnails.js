// Images of items as sources of <img>: by URL, or as blobs where a request needs a key.

import { api, apiKey, urlOf } from "./api.js";

const SIDES = [128, 256, 512, 1024, 2048];
const MAX_BLOBS = 600;
/** Interval in which a service that does not answer is asked again. */
const RETRY_MS = 3000;

const blobs = new Map();
/** Image of a tile -> the request of its thumbnail. */
const requests = new WeakMap();

/** Return the smallest offered side that covers `pixels` of the screen. */
export function sideFor(pixels) {
  const needed = pixels * Math.min(devicePixelRatio || 1, 2);
  return SIDES.find((side) => side >= needed) ?? SIDES.at(-1);
}

export const thumbnailPath = (item, side) => `${item.thumbnail}&side=${side}`;

/** Show an image of the service; `path` is a thumbnail. */
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

/** Return a URL of a file of the service, for as long as `signal` is not aborted. */
export async function openSource(path, signal) {
  if (!apiKey.get()) return urlOf(path).href;
  const url = URL.createObjectURL(await api.blob(path, signal));
  signal.addEventListener("abort", () => URL.revokeObjectURL(url));
  return url;
}

/** Show the thumbnail of a tile, whose request ends when the tile leaves the page. */
export async function showThumbnail(img) {
  if (requests.has(img)) return;
  const stop = new AbortController();
  requests.set(img, stop);
  try {
    img.src = await blobOf(img.dataset.path, stop.signal);
  } catch (error) {
    if (stop.signal.aborted) return;
    img.dispatchEvent(new Event("error"));
    // A service that went away may come back.
    if (error.status === 0) setTimeout(() => requests.delete(img) && img.isConnected && showThumbnail(img), RETRY_MS);
  }
}

/** End the request of a tile's thumbnail. */
export function dropThumbnail(img) {
  requests.get(img)?.abort();
  img.removeAttribute("src");
}

// An <img> sends no Authorization header.
const blobOf = async (path, signal) => known(path) ?? keep(path, await api.blob(path, signal));

/** Return the URL of a blob that was used lately. */
function known(path) {
  const url = blobs.get(path);
  if (url && blobs.delete(path)) blobs.set(path, url);
  return url;
}

function keep(path, blob) {
  const url = URL.createObjectURL(blob);
  blobs.set(path, url);
  if (blobs.size > MAX_BLOBS) {
    const [oldest, old] = blobs.entries().next().value;
    blobs.delete(oldest);
    URL.revokeObjectURL(old);
  }
  return url;
}
