// Images of queries: read from files, reduced, and kept for the session, so that links to them work.

import { t } from "./language.js";

const MAX_SIDE = 1024;
const MAX_RAW_BYTES = 24_000_000;
const STORED = "coca.image.";

const images = new Map();

/** Read a file as an image for queries; returns its key. */
export async function addImage(file) {
  const uri = await reduced(file).catch(() => raw(file));
  const key = Date.now().toString(36);
  images.set(key, uri);
  try {
    sessionStorage.setItem(STORED + key, uri);
  } catch {
    // A full storage only affects a reload of the page.
  }
  return key;
}

/** Return the data URI of an image; undefined if this browser tab does not have it. */
export function imageOf(key) {
  if (!images.has(key)) {
    const stored = sessionStorage.getItem(STORED + key);
    if (stored) images.set(key, stored);
  }
  return images.get(key);
}

/** Read a file as a data URI, as it is. */
export function raw(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(t("{name} cannot be read.", { name: file.name }))));
    if (file.size > MAX_RAW_BYTES) reject(new Error(t("{name} is larger than 24 MB.", { name: file.name })));
    else reader.readAsDataURL(file);
  });
}

/** List the image files of a drop or a paste; browsers do not know the type of some. */
export function imageFiles(transfer) {
  const isImage = ({ type, name }) => type.startsWith("image/") || (!type && /\.(heic|heif|avif|jxl)$/i.test(name));
  return [...(transfer?.files ?? [])].filter(isImage);
}

// The model reads a few hundred pixels a side; a photo of a phone would take seconds to send.
async function reduced(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.9);
}
