// Exact search of the collection: by images, and of typed texts by given captions as well.

import { BM25 } from "./bm25.js";
import { bytes, json, once } from "./files.js";
import { embedQuery } from "./model.js";
import { nameEmoji } from "./queries.js";
import { rankedRows } from "./ranking.js";
import { Vectors } from "./vectors.js";

const vectorsOf = (path, size) =>
  once(path, async () => new Vectors(await bytes(path), size));

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
    const { ranking, embed_dim } = this.collection;
    const query = await embedQuery(text);
    if (!ranking) return this.byVector(query);
    const images = this.vectors.scores(query);
    const captions = await vectorsOf("caption_vectors.bin", embed_dim);
    const counts = (row) => this.isGiven(row) && captions.has(row);
    const words = this.bm25.scores(nameEmoji(text, await json("queries.json")));
    const rows = rankedRows(images, captions.scores(query), words, ranking, counts);
    return rows.map((row) => ({ row, score: images[row] }));
  }

  isGiven(row) {
    return this.collection.items[row].caption_source === "given";
  }

  get bm25() {
    return (this.index ??= new BM25(this.collection.ranking.bm25));
  }
}
