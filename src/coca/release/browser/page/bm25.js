// BM25 of captions, with the words that Python found in them and their stems.

const WORDS = new Intl.Segmenter("en", { granularity: "word" });
// What a word begins with in Python: a letter, a digit, "_" or an emoji.
const STARTS = /^[\p{Alphabetic}\p{M}\p{N}\p{Pc}\p{Emoji_Presentation}\p{Extended_Pictographic}]/u;
// Characters that are words of their own in Python.
const SINGLE = /[\p{Script=Han}\p{Script=Hiragana}]|[^\p{Script=Han}\p{Script=Hiragana}]+/gu;

// `casefold` maps characters to their case folding where that is not their lower case.
export function splitWords(text, casefold) {
  const fold = (letter) => casefold[letter] ?? letter.toLowerCase();
  const folded = Array.from(text.normalize("NFKC"), fold).join("").replaceAll("\u2019", "'");
  const found = [...WORDS.segment(folded)].filter((it) => STARTS.test(it.segment));
  return found.flatMap(({ segment }) => segment.match(SINGLE) ?? []);
}

export class BM25 {
  // `terms` has the rows and counts of each term, `forms` the term of each word.
  constructor({ terms, forms, stop, lengths, k1, b, casefold }) {
    Object.assign(this, { terms, forms, casefold, stop: new Set(stop) });
    this.count = lengths.filter(Boolean).length;
    const mean = lengths.reduce((sum, length) => sum + length, 0) / this.count;
    this.offsets = lengths.map((length) => k1 * (1 - b + (b * length) / mean));
  }

  // Row -> BM25, of the rows that share a word with the query.
  scores(query) {
    const scores = new Map();
    const words = splitWords(query, this.casefold);
    const found = words.map((word) => (Object.hasOwn(this.forms, word) ? this.forms[word] : word));
    const chosen = found.filter((term) => !this.stop.has(term));
    for (const term of chosen.length ? chosen : found) {
      const rows = Object.hasOwn(this.terms, term) ? this.terms[term] : [];
      const rarity = Math.log(1 + (this.count - rows.length + 0.5) / (rows.length + 0.5));
      for (const [row, count] of rows) {
        const gain = (rarity * count) / (count + this.offsets[row]);
        scores.set(row, (scores.get(row) ?? 0) + gain);
      }
    }
    return scores;
  }
}
