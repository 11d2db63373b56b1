// Files that the reader saves: a blob, records as JSON lines, and a ZIP archive of images.

import { api } from "./api.js";
import { h } from "./dom.js";

const REVOKE_MS = 60_000;

/** Save a blob as a file of the reader. */
export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), REVOKE_MS);
}

/** Build JSON lines of items, without addresses and scores. */
export function jsonLines(items) {
  const kept = ["id", "name", "path", "caption", "tags", "album", "width", "height", "taken_at", "metadata"];
  const lines = items.map((item) =>
    JSON.stringify(Object.fromEntries(kept.map((key) => [key, item[key]]))),
  );
  return new Blob([`${lines.join("\n")}\n`], { type: "application/x-ndjson" });
}

/**
 * Pack the original images of items, stored without compression, since images are compressed.
 * @param {object[]} items
 * @param {function(number)} onProgress receives the number of read images
 */
export async function zipOf(items, onProgress) {
  const parts = [];
  const directory = [];
  const names = new Set();
  let offset = 0;
  for (const [at, item] of items.entries()) {
    const data = new Uint8Array(await (await api.blob(item.original)).arrayBuffer());
    const name = new TextEncoder().encode(unique(item, names));
    const fields = [0x0800, 0, 0, 0x21, crc32(data), data.length, data.length, name.length, 0];
    const head = header(0x04034b50, [20], fields);
    parts.push(head, name, data);
    directory.push(header(0x02014b50, [20, 20], [...fields, 0, 0, 0, 0, offset], true), name);
    offset += head.length + name.length + data.length;
    onProgress(at + 1);
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, items.length, true);
  end.setUint16(10, items.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...directory, end.buffer], { type: "application/zip" });
}

// Fields in the order of both kinds of headers; sums, sizes and offsets have four bytes.
function header(signature, versions, fields, central = false) {
  const wide = new Set(central ? [4, 5, 6, 12, 13] : [4, 5, 6]);
  const length = 4 + versions.length * 2 + fields.reduce((sum, _, n) => sum + (wide.has(n) ? 4 : 2), 0);
  const view = new DataView(new ArrayBuffer(length));
  view.setUint32(0, signature, true);
  let at = 4;
  for (const version of versions) {
    view.setUint16(at, version, true);
    at += 2;
  }
  fields.forEach((value, n) => {
    if (wide.has(n)) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    at += wide.has(n) ? 4 : 2;
  });
  return new Uint8Array(view.buffer);
}

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
