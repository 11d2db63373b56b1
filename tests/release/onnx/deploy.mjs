// An exported model in JavaScript, written from docs/exported-models.md. Reads a request as JSON
// from stdin: folder, packages, images (PNG), texts, prompt.
// Writes vectors, captions and scores as JSON to stdout. A request with `settings`, the content of
// a preprocess.json, needs no folder and gets pixels.

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";

const request = JSON.parse(readFileSync(0, "utf8"));
const find = createRequire(`${request.packages}/`);
const ort = find("onnxruntime-node");
const { PNG } = find("pngjs");
const { Tokenizer } = find("@huggingface/tokenizers");

const json = (name) => JSON.parse(readFileSync(`${request.folder}/${name}`, "utf8"));
const { image: imageSettings, text: layout } = request.settings ?? json("preprocess.json");
let [manifest, tokenizer, words] = [];
const graphs = {};

async function loadModel() {
  manifest = json("manifest.json");
  tokenizer = new Tokenizer({ ...json("tokenizer.json"), added_tokens: [] }, {});
  for (const name of ["vision", "vision_fp32", "text", "cross", "decoder"]) {
    if (!(`${name}.onnx` in manifest.files)) continue;
    graphs[name] = await ort.InferenceSession.create(`${request.folder}/${name}.onnx`);
  }
  graphs.vision_fp32 ??= graphs.vision;
  const list = `${request.folder}/caption_words.txt`;
  words = existsSync(list) ? trie(readFileSync(list, "utf8").split("\n")) : null;
}

// Pixels: { width, height, data }, data has three bytes a pixel.

function decoded(path) {
  const { width, height, data } = PNG.sync.read(readFileSync(path));
  const rgb = new Uint8Array(width * height * 3);
  for (let n = 0; n < width * height; n++) {
    const alpha = data[4 * n + 3];
    for (let c = 0; c < 3; c++) {
      rgb[3 * n + c] = Math.round((data[4 * n + c] * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return { width, height, data: rgb };
}

function filled(width, height, colour) {
  const data = new Uint8Array(width * height * 3);
  for (let n = 0; n < data.length; n++) data[n] = colour[n % 3];
  return { width, height, data };
}

function copy(from, box, to, x0, y0) {
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++) {
      const source = ((box.top + y) * from.width + box.left + x) * 3;
      const target = ((y0 + y) * to.width + x0 + x) * 3;
      for (let c = 0; c < 3; c++) to.data[target + c] = from.data[source + c];
    }
  }
  return to;
}

const cropped = (image, box) => copy(image, box, filled(box.width, box.height, [0, 0, 0]), 0, 0);

function trimmed(image) {
  const border = image.data.slice(0, 3);
  let [left, top, right, bottom] = [image.width, image.height, -1, -1];
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      const at = (y * image.width + x) * 3;
      if (![0, 1, 2].some((c) => Math.abs(image.data[at + c] - border[c]) > 12)) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
  }
  if (right < 0) return image;
  const box = { left, top, width: right - left + 1, height: bottom - top + 1 };
  const factor = Math.ceil(Math.max(box.width, box.height) / 7071);
  let part = copy(image, box, filled(box.width, box.height, border), 0, 0);
  if (factor > 1) {
    part = resized(part, Math.ceil(box.width / factor), Math.ceil(box.height / factor), "box");
  }
  const side = Math.max(part.width, part.height);
  const offset = (length) => Math.floor((side - length) / 2);
  const whole = { left: 0, top: 0, width: part.width, height: part.height };
  return copy(part, whole, filled(side, side, border), offset(part.width), offset(part.height));
}

const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const [a, t] = [-0.5, Math.abs(x)];
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  }],
};

function weightsOf(input, output, name) {
  const [radius, filter] = FILTERS[name];
  const scale = input / output;
  const f = Math.max(scale, 1);
  return Array.from({ length: output }, (_, i) => {
    const c = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(c - radius * f + 0.5));
    const end = Math.min(input, Math.floor(c + radius * f + 0.5));
    const weights = Array.from({ length: end - first }, (_, n) => filter((first + n - c + 0.5) / f));
    const sum = weights.reduce((one, other) => one + other, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

// Resample one axis: `lines` of `input` pixels each, `step` and `line` are strides in pixels.
function resampled(data, lines, input, output, step, line, outStep, outLine, name) {
  const result = new Uint8Array(lines * output * 3);
  weightsOf(input, output, name).forEach(([first, weights], i) => {
    for (let n = 0; n < lines; n++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        weights.forEach((weight, k) => {
          sum += weight * data[(n * line + (first + k) * step) * 3 + c];
        });
        const value = Math.floor(sum + 0.5);
        result[(n * outLine + i * outStep) * 3 + c] = Math.min(255, Math.max(0, value));
      }
    }
  });
  return result;
}

function resized({ width, height, data }, w, h, name = imageSettings.interpolation) {
  const tall = height > h && height - h > 2 * (width - w);
  if (tall) data = resampled(data, width, height, h, width, 1, width, 1, name);
  const rows = tall ? h : height;
  if (width !== w) data = resampled(data, rows, width, w, 1, width, 1, w, name);
  if (rows !== h) data = resampled(data, w, rows, h, w, 1, w, 1, name);
  return { width: w, height: h, data };
}

function even(x) {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

function centre(image, width, height, round = Math.floor) {
  const left = round((image.width - width) / 2);
  const top = round((image.height - height) / 2);
  return cropped(image, { left, top, width, height });
}

function square(image) {
  const side = imageSettings.image_size;
  const [short, long] = [Math.min(image.width, image.height), Math.max(image.width, image.height)];
  switch (imageSettings.resize) {
    case "squash":
      return resized(image, side, side);
    case "crop":
      return resized(centre(image, short, short), side, side);
    case "pad": {
      const size = (length) => Math.max(1, even((length * side) / long));
      const inner = resized(image, size(image.width), size(image.height));
      const [x, y] = [inner.width, inner.height].map((length) => Math.floor((side - length) / 2));
      const box = { left: 0, top: 0, width: inner.width, height: inner.height };
      return copy(inner, box, filled(side, side, [255, 255, 255]), x, y);
    }
    case "shortest": {
      const limit = (length) => Math.min(length, 256 * short);
      const cut = long > 256 * short ? centre(image, limit(image.width), limit(image.height)) : image;
      const size = (length) => Math.floor((side * length) / short);
      return centre(resized(cut, size(cut.width), size(cut.height)), side, side, even);
    }
    default:
      throw new Error(`unknown method ${imageSettings.resize}`);
  }
}

function pixelsOf(path) {
  let image = decoded(path);
  if (imageSettings.trim) image = trimmed(image);
  const { data } = square(image);
  const side = imageSettings.image_size;
  const planes = new Uint8Array(3 * side * side);
  for (let n = 0; n < side * side; n++) {
    for (let c = 0; c < 3; c++) planes[c * side * side + n] = data[3 * n + c];
  }
  return new ort.Tensor("uint8", planes, [1, 3, side, side]);
}

// Token ids.

const textIds = (text) => tokenizer.encode(text, { add_special_tokens: false }).ids;

function idsOf(text) {
  const room = layout.context_length - 1 - layout.suffix.length;
  return [layout.bos_id, ...textIds(text).slice(0, room), ...layout.suffix];
}

const SPACES_BEFORE_MARKS = /\s+(?=[.,;:!?](?:\s|$)|(?:n't|'(?:s|m|d|re|ve|ll))\b)/gu;

function textOf(ids) {
  const kept = ids.filter((id) => !layout.skipped.includes(id));
  const exactly = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
  return kept.length ? tokenizer.decode(kept, exactly).trim() : "";
}

const integers = (rows) =>
  new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);

// Decoding. Each row of a batch has its own caption; all rows have the same image.

function repeated(tensor, rows) {
  const data = new Float32Array(tensor.data.length * rows);
  for (let n = 0; n < rows; n++) data.set(tensor.data, n * tensor.data.length);
  return new ort.Tensor("float32", data, [rows, ...tensor.dims.slice(1)]);
}

const mapped = (tensors, change) =>
  Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, change(tensor)]));

function emptyCaches() {
  const caches = {};
  for (let layer = 0; layer < manifest.unimodal_layers + manifest.multimodal_layers; layer++) {
    for (const part of ["key", "value"]) {
      const size = [1, manifest.heads, 0, manifest.head_size];
      caches[`past_key_values.${layer}.${part}`] = new ort.Tensor("float32", new Float32Array(0), size);
    }
  }
  return caches;
}

// Log-probabilities after each new token, as [row][token][id], and the caches for the next step.
async function step(rows, cross, past, cached) {
  const length = rows[0].length;
  const mask = new Uint8Array(rows.length * length * (cached + length)).fill(1);
  for (let n = 0; n < mask.length; n++) {
    const row = Math.floor(n / (cached + length)) % length;
    if (n % (cached + length) > cached + row) mask[n] = 0;
  }
  const positions = rows.map(() =>
    Array.from({ length }, (_, n) => Math.min(cached + n, layout.positions - 1)));
  const { logits, ...present } = await graphs.decoder.run({
    input_ids: integers(rows),
    position_ids: integers(positions),
    attention_mask: new ort.Tensor("bool", mask, [rows.length, length, cached + length]),
    ...mapped(cross, (tensor) => repeated(tensor, rows.length)),
    ...past,
  });
  const size = logits.dims[2];
  const all = rows.map((_, row) => Array.from({ length }, (_, n) => {
    const start = (row * length + n) * size;
    return logSoftmax(logits.data.subarray(start, start + size));
  }));
  const renamed = Object.entries(present).map(([name, tensor]) => [
    name.replace("present", "past_key_values"), tensor]);
  return [all, Object.fromEntries(renamed)];
}

function logSoftmax(logits) {
  let [highest, sum] = [-Infinity, 0];
  for (const one of logits) highest = Math.max(highest, one);
  for (const one of logits) sum += Math.exp(one - highest);
  return Float64Array.from(logits, (one) => one - highest - Math.log(sum));
}

function chosenRows(tensor, rows) {
  const size = tensor.data.length / tensor.dims[0];
  const data = new Float32Array(size * rows.length);
  rows.forEach((row, n) => data.set(tensor.data.subarray(row * size, (row + 1) * size), n * size));
  return new ort.Tensor("float32", data, [rows.length, ...tensor.dims.slice(1)]);
}

// Words of captions: nodes with their children by id, whether a word is whole there, and the
// number of further ids to the end of the nearest word.

function trie(lines) {
  const node = () => ({ children: new Map(), whole: false, needed: Infinity });
  const root = node();
  for (const word of lines.filter((line) => line && !line.startsWith("!"))) {
    const ids = textIds(word);
    if (ids.length > 32) continue;
    let at = root;
    for (const id of ids) {
      if (!at.children.has(id)) at.children.set(id, node());
      at = at.children.get(id);
    }
    at.whole = true;
  }
  const before = textIds("a");
  const start = textOf(before);
  const marks = new Set();
  for (const id of tokenizer.get_vocab().values()) {
    const added = textOf([...before, id]).slice(start.length);
    const isMark = /^[\p{P}\p{S}]+$/u.test(added.trim()) && !added.includes("\ufffd");
    if (isMark && (added !== added.trimStart() || !/[-'\u2019/&@_\u2010-\u2015]/.test(added))) {
      marks.add(id);
    }
  }
  const finish = (at) => {
    for (const [id, child] of at.children) {
      if (at.whole && marks.has(id)) child.whole = true;
      finish(child);
      at.needed = Math.min(at.needed, child.needed + 1);
    }
    if (at.whole) at.needed = 0;
  };
  root.whole = true;
  finish(root);
  return { root, marks };
}

function allowedIds(generated, left) {
  const { root, marks } = words;
  let at = root;
  for (const id of generated) at = at.children.get(id) ?? root.children.get(id) ?? root;
  const allowed = new Set(at.whole ? [...marks, layout.eos_id] : []);
  for (const children of at.whole ? [root.children, at.children] : [at.children]) {
    for (const [id, child] of children) {
      if (child.needed < left) allowed.add(id);
      else if (children !== root.children) allowed.delete(id);
    }
  }
  return allowed;
}

async function captioned(cross, prompt, size, penalty) {
  const prefix = [layout.bos_id, ...textIds(prompt)];
  const budget = layout.max_text_tokens + 1 - prefix.length;
  let beams = [{ total: 0, ids: [] }];
  let captions = [];
  let [all, past] = await step([prefix], cross, emptyCaches(), 0);
  let cached = prefix.length;
  for (let t = 1; t <= budget; t++) {
    const candidates = [];
    beams.forEach((beam, parent) => {
      const logP = all[parent].at(-1);
      for (const id of layout.suppressed) logP[id] = -Infinity;
      const allowed = words && allowedIds(beam.ids, budget + 1 - t);
      if (allowed) logP.forEach((_, id) => allowed.has(id) || (logP[id] = -Infinity));
      logP.forEach((gain, id) => candidates.push({ total: beam.total + gain, parent, id }));
    });
    candidates.sort((a, b) => b.total - a.total || a.parent - b.parent || a.id - b.id);
    const next = [];
    candidates.slice(0, 2 * size).forEach(({ total, parent, id }, index) => {
      const ends = id === layout.eos_id;
      const ids = ends ? beams[parent].ids : [...beams[parent].ids, id];
      if (index < size && (ends || t === budget) && total > -Infinity) {
        captions.push({ ids, total, rank: total / t ** penalty });
      }
      if (!ends && next.length < size) next.push({ total, ids, parent, id });
    });
    captions = captions.sort((a, b) => b.rank - a.rank).slice(0, size);
    const worst = captions.length === size ? captions.at(-1).rank : -Infinity;
    beams = next;
    if (t === budget || !(beams[0].total / t ** penalty > worst)) break;
    const parents = beams.map(({ parent }) => parent);
    const rows = beams.map(({ id }) => [id]);
    [all, past] = await step(rows, cross, mapped(past, (one) => chosenRows(one, parents)), cached);
    cached += 1;
  }
  const [best] = captions;
  const text = textOf([...prefix.slice(1), ...best.ids]).replace(SPACES_BEFORE_MARKS, "");
  return { text, ids: best.ids, score: best.total };
}

async function scored(cross, text) {
  const ids = idsOf(text);
  const end = ids.indexOf(layout.eos_id);
  const [[logPs]] = await step([ids.slice(0, end)], cross, emptyCaches(), 0);
  return logPs.reduce((sum, logP, n) => sum + logP[ids[n + 1]], 0);
}

async function answer() {
  await loadModel();
  const result = { images: [], texts: [], ids: [], greedy: [], beams: [], prompted: [], scores: [] };
  for (const path of request.images) {
    const pixels = pixelsOf(path);
    const { image_embeds } = await graphs.vision.run({ pixels });
    const { image_tokens } = await graphs.vision_fp32.run({ pixels });
    const cross = await graphs.cross.run({ image_tokens });
    result.images.push([...image_embeds.data]);
    result.greedy.push(await captioned(cross, "", 1, 0));
    result.beams.push(await captioned(cross, "", 4, 1));
    result.prompted.push(await captioned(cross, request.prompt, 4, 1));
    result.scores.push(await Promise.all(request.texts.map((text) => scored(cross, text))));
  }
  const rows = request.texts.map(idsOf);
  const longest = Math.max(...rows.map((row) => row.length));
  const padded = rows.map((row) => [...row, ...Array(longest - row.length).fill(layout.pad_id)]);
  const { text_embeds } = await graphs.text.run({ input_ids: integers(padded) });
  const width = text_embeds.dims[1];
  result.texts = rows.map((_, n) => [...text_embeds.data.subarray(n * width, (n + 1) * width)]);
  result.ids = rows;
  return result;
}

const answered = request.settings
  ? request.images.map((path) => [...pixelsOf(path).data])
  : await answer();
process.stdout.write(JSON.stringify(answered));
