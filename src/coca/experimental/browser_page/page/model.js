// The text encoder in ONNX Runtime, loaded at the first search.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { bytes, json, once } from "./files.js";
import { forms } from "./queries.js";
import { Tokenizer } from "./tokenizer.js";

// Threads would need headers of the server for cross-origin isolation.
ort.env.wasm.numThreads = 1;

const encoder = () =>
  once("encoder", async () => {
    const [graph, runtime] = await Promise.all([
      bytes("model/text.onnx"),
      bytes("ort/ort-wasm-simd-threaded.wasm"),
    ]);
    // Loaded here, so that its progress is shown.
    ort.env.wasm.wasmBinary = runtime;
    return ort.InferenceSession.create(new Uint8Array(graph));
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
  const [session, tokens] = await Promise.all([encoder(), tokenizer()]);
  const ids = BigInt64Array.from(tokens.encode(text), BigInt);
  const results = await session.run({ input_ids: new ort.Tensor("int64", ids, [1, ids.length]) });
  return results.text_embeds.data;
}
