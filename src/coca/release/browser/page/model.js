// The exported graphs in ONNX Runtime, each loaded when it is first needed.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { bytes, json, once } from "./files.js";
import { rgb, square } from "./pixels.js";
import { forms } from "./queries.js";
import { Tokenizer } from "./tokenizer.js";

// Threads would need headers of the server for cross-origin isolation.
ort.env.wasm.numThreads = 1;

const graph = (name) =>
  once(name, async () => {
    const [file, runtime] = await Promise.all([
      bytes(`model/${name}.onnx`),
      once("runtime", () => bytes("ort/ort-wasm-simd-threaded.wasm")),
    ]);
    // Loaded here, so that its progress is shown.
    ort.env.wasm.wasmBinary = runtime;
    return ort.InferenceSession.create(new Uint8Array(file));
  });
const tokenizer = () =>
  once("tokenizer", async () => {
    const [file, settings] = await Promise.all([
      json("model/tokenizer.json"),
      json("model/preprocess.json"),
    ]);
    return new Tokenizer(file, settings.text);
  });

// The sum of the embeddings of the texts of a query; a search uses its direction alone.
export async function embedQuery(query) {
  const texts = forms(query, await json("queries.json"));
  const sum = (await embedText(texts[0])).slice();
  for (const text of texts.slice(1)) {
    (await embedText(text)).forEach((value, at) => (sum[at] += value));
  }
  return sum;
}

async function embedText(text) {
  const [session, tokens] = await Promise.all([graph("text"), tokenizer()]);
  const ids = BigInt64Array.from(tokens.encode(text), BigInt);
  const results = await session.run({ input_ids: new ort.Tensor("int64", ids, [1, ids.length]) });
  return results.text_embeds.data;
}

export async function embedImage(file) {
  const [session, settings] = await Promise.all([graph("vision"), json("model/preprocess.json")]);
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const pixels = square(rgb(context.getImageData(0, 0, bitmap.width, bitmap.height)), settings.image);
  bitmap.close();
  const side = settings.image.image_size;
  const tensor = new ort.Tensor("uint8", pixels, [1, 3, side, side]);
  // Captions need the second output; a search does not.
  const results = await session.run({ pixels: tensor }, ["image_embeds"]);
  return results.image_embeds.data;
}
