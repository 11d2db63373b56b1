// Files that the reader saves: a blob, and a ZIP archive of images.

import { api, apiKey } from "./api.js";
import { h } from "./dom.js";
import { t } from "./language.js";
import { report } from "./notices.js";

const REVOKE_MS = 60_000;
/** Size from which on a ZIP archive needs fields of 64 bits, which this one lacks. */
const MAX_ZIP_BYTES = 2 ** 32 - 1;
/** Start of 1980, in seconds since 1970. */
const FIRST_S = 315_532_800;

/** Save a blob as a file of the reader. */
export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), REVOKE_MS);
}

/** Open a file of the service in another browser tab after a click on its link, which sends no key. */
export async function openFile(event, path) {
  if (!apiKey.get()) return;
  event.preventDefault();
  // Browsers block a tab that is opened after the response.
  const tab = open();
  if (!tab) return;
  tab.opener = null;
  try {
    const url = URL.createObjectURL(await api.blob(path));
    tab.location.href = url;
    setTimeout(() => URL.revokeObjectURL(url), REVOKE_MS);
  } catch (error) {
    tab.close();
    report(error);
  }
}

/**
 * Pack the original images of items, stored without compression, since images are compressed.
 * @param {any[]} items
 * @param {(read: number) => void} onProgress receives the number of read images
 */
export async function zipOf(items, onProgress) {
  const parts = [];
  const directory = [];
  const names = new Set();
  let offset = 0;
  for (const [at, item] of items.entries()) {
    const data = new Uint8Array(await (await api.blob(item.original)).arrayBuffer());
    const name = new TextEncoder().encode(unique(item, names));
    const fields = [[20, 2], [0x0800, 2], [0, 2], ...stampOf(item.time ?? 0), [crc32(data), 4], [data.length, 4], [data.length, 4], [name.length, 2], [0, 2]];
    const head = packed([0x04034b50, 4], ...fields);
    parts.push(head, name, data);
    directory.push(packed([0x02014b50, 4], [20, 2], ...fields, [0, 6], [0, 4], [offset, 4]), name);
    offset += head.length + name.length + data.length;
    if (offset > MAX_ZIP_BYTES) throw new Error(t("A ZIP archive has at most 4 GB. Select fewer images."));
    onProgress(at + 1);
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = packed([0x06054b50, 4], [0, 4], [items.length, 2], [items.length, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Write a date as the time and the day of MS-DOS, which begins in 1980. */
function stampOf(seconds) {
  const date = new Date(Math.max(seconds, FIRST_S) * 1000);
  const time = (date.getUTCHours() << 11) | (date.getUTCMinutes() << 5) | (date.getUTCSeconds() >> 1);
  const day = (Math.min(127, date.getUTCFullYear() - 1980) << 9) | ((date.getUTCMonth() + 1) << 5) | date.getUTCDate();
  return [[time, 2], [day, 2]];
}

/** Write integers, each with its number of bytes, the lowest byte first. */
const packed = (...fields) =>
  new Uint8Array(fields.flatMap(([value, bytes]) => Array.from({ length: bytes }, (_, n) => (n < 4 ? (value >>> (8 * n)) & 255 : 0))));

function unique(item, names) {
  const wanted = (item.name || item.id).replace(/[\\/:\0]/g, "_");
  const dot = wanted.lastIndexOf(".");
  const [stem, end] = dot > 0 ? [wanted.slice(0, dot), wanted.slice(dot)] : [wanted, ""];
  let name = wanted;
  for (let n = 2; names.has(name); n += 1) name = `${stem} (${n})${end}`;
  names.add(name);
  return name;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = (value >>> 8) ^ TABLE[(value ^ byte) & 0xff];
  return (value ^ 0xffffffff) >>> 0;
}
