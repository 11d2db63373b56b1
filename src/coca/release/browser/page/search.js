// Exact search of the collection: by images, and of typed texts by given captions as well.

import { BM25, coverage } from "./bm25.js";
import { fetched, json, once } from "./files.js";
import { fused } from "./hybrid.js";
import { embedQuery } from "./model.js";
import { wordForms } from "./queries.js";
import { Vectors } from "./vectors.js";

const vectorsOf = (path, size) =>
  once(path, async () => new Vectors(await (await fetched(path)).arrayBuffer(), size));

export class Search {
  static async open() {
    const collection = await json("collection.json");
    return new Search(collection, await vectorsOf("vectors.bin", collection.embed_dim));
  }

  constructor(collection, vectors) {
    this.collection = collection;
    this.vectors = vectors;
  }

  // Hits have the row of an item and its cosine with the query, best first.
  byVector(query) {
    return this.vectors.nearest(query);
  }

  byRow(row) {
    return this.byVector(this.vectors.row(row));
  }

  async byText(text) {
    const { hybrid, embed_dim } = this.collection;
    if (!hybrid) return this.byVector(await embedQuery(text));
    const [query, captions, rules] = await Promise.all([
      embedQuery(text),
      vectorsOf("caption_vectors.bin", embed_dim),
      json("queries.json"),
    ]);
    const images = this.byVector(query);
    const words = wordForms(text, rules);
    const byWords = this.bm25.nearest([...new Set(words.flat())].join(" "));
    const counts = (row) => this.isGiven(row);
    const covered = (row) =>
      coverage(words, this.collection.items[row].caption, hybrid.bm25.casefold);
    const rows = fused(images, captions.nearest(query), byWords, hybrid, counts, covered);
    const scores = new Map(images.map(({ row, score }) => [row, score]));
    return rows.map((row) => ({ row, score: scores.get(row) }));
  }

  isGiven(row) {
    return this.collection.items[row].caption_source === "given";
  }

  // Built by the first typed query. Captions that do not count are empty texts, as in Python.
  get bm25() {
    const given = (item, row) => (this.isGiven(row) ? item.caption : "");
    return (this.index ??= new BM25(this.collection.items.map(given), this.collection.hybrid.bm25));
  }
}
