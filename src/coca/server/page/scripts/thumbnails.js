// Images of items as sources of <img>: single ones by URL or as blobs, those of tiles in batches.

import { api, apiKey, urlOf } from "./api.js";

const SIDES = [128, 256, 512, 1024];
const MAX_BLOBS = 600;
/** Thumbnails of one request, and such requests at a time: a browser has six connections. */
const BATCH = 12;
const MAX_BATCHES = 4;
/** Interval in which a service that does not answer is asked again. */
const RETRY_MS = 3000;

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
const blobOf = async (path) => known(path) ?? keep(path, await api.blob(path));

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

/** Path -> image of a tile whose thumbnail is to be requested. */
const waiting = new Map();
/** Image whose thumbnail is requested, or failed -> its batch. */
const asked = new WeakMap();
let batches = 0;

/** Show the thumbnail of a tile; one request reads those of several. */
export function showThumbnail(img) {
  const { path } = img.dataset;
  const url = known(path);
  if (url) img.src = url;
  else if (!asked.has(img)) {
    if (!waiting.size) setTimeout(sendBatches);
    waiting.set(path, img);
  }
}

/** Forget a tile that has left the page; a batch without tiles ends. */
export function dropThumbnail(img) {
  if (waiting.get(img.dataset.path) === img) waiting.delete(img.dataset.path);
  const batch = asked.get(img);
  if (batch && ![...batch.images.values()].some((one) => one.isConnected)) batch.stop.abort();
  img.removeAttribute("src");
}

const SINGLE = /^\/v1\/items\/(.+)\/thumbnail(?=\?)/;
/** Return the address of a batch, which images of one collection and side share. */
const addressOf = (path) => path.replace(SINGLE, "/v1/items/thumbnails");

async function sendBatches() {
  while (waiting.size && batches < MAX_BATCHES) {
    const [first] = waiting.keys();
    const address = addressOf(first);
    const paths = [...waiting.keys()].filter((path) => addressOf(path) === address).slice(0, BATCH);
    const images = new Map(paths.map((path) => [path, waiting.get(path)]));
    const batch = { images, stop: new AbortController() };
    for (const [path, img] of images) {
      waiting.delete(path);
      asked.set(img, batch);
    }
    batches += 1;
    readBatch(address + paths.map((path) => `&id=${SINGLE.exec(path)[1]}`).join(""), batch).finally(() => {
      batches -= 1;
      sendBatches();
    });
  }
}

/** Show each image of a batch as soon as it is there: four bytes of its length, and its JPEG. */
async function readBatch(address, { images, stop }) {
  const fail = (img) => img.dispatchEvent(new Event("error"));
  try {
    const reader = await api.reader(address, stop.signal);
    let bytes = new Uint8Array(0);
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const joined = new Uint8Array(bytes.length + part.value.length);
      joined.set(bytes);
      joined.set(part.value, bytes.length);
      bytes = joined;
      while (bytes.length >= 4) {
        const end = 4 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
        if (bytes.length < end) break;
        const [path, img] = images.entries().next().value;
        images.delete(path);
        if (end > 4) img.src = keep(path, new Blob([bytes.slice(4, end)], { type: "image/jpeg" }));
        else fail(img);
        bytes = bytes.subarray(end);
      }
    }
  } catch (error) {
    if (stop.signal.aborted) return;
    // A service that went away may come back.
    if (!error.status) setTimeout(() => {
      for (const img of images.values()) if (asked.delete(img) && img.isConnected) showThumbnail(img);
    }, RETRY_MS);
  }
  for (const img of images.values()) fail(img);
}
