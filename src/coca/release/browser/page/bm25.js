// BM25 of captions with the words and the formula of Python.

import { ranked } from "./vectors.js";

// What \w matches in Python: letters and numbers of every script, and "_".
const WORD = /[\p{L}\p{N}_]+/gu;

// `casefold` maps characters to their case folding where that is not their lower case.
export function splitWords(text, casefold) {
  const fold = (letter) => casefold[letter] ?? letter.toLowerCase();
  return Array.from(text.normalize("NFKC"), fold).join("").match(WORD) ?? [];
}

// The fraction of the words of a query that a text has in one of their forms; 1 without words.
export function coverage(words, text, casefold) {
  const held = new Set(splitWords(text, casefold));
  const split = words.map((word) => word.map((form) => splitWords(form, casefold)));
  const known = split.filter((word) => word.every((form) => form.length));
  const has = (form) => form.every((part) => held.has(part));
  return known.length ? known.filter((word) => word.some(has)).length / known.length : 1;
}

export class BM25 {
  constructor(texts, { k1, b, casefold }) {
    this.casefold = casefold;
    this.count = texts.length;
    const split = texts.map((text) => splitWords(text, casefold));
    const mean = split.reduce((sum, words) => sum + words.length, 0) / this.count;
    this.offsets = split.map((words) => k1 * (1 - b + (b * words.length) / mean));
    // Word -> row -> count.
    this.counts = new Map();
    split.forEach((words, row) => {
      for (const word of words) {
        if (!this.counts.has(word)) this.counts.set(word, new Map());
        const rows = this.counts.get(word);
        rows.set(row, (rows.get(row) ?? 0) + 1);
      }
    });
  }

  // The rows that share a word with the query, best first.
  nearest(query) {
    const scores = new Float32Array(this.count);
    const found = new Set();
    for (const word of splitWords(query, this.casefold)) {
      const rows = this.counts.get(word) ?? new Map();
      const rarity = Math.log(1 + (this.count - rows.size + 0.5) / (rows.size + 0.5));
      for (const [row, count] of rows) {
        scores[row] += (rarity * count) / (count + this.offsets[row]);
        found.add(row);
      }
    }
    return ranked(scores, found);
  }
}
