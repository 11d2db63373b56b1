// The ranking rule of typed queries: a sum of absolute similarities, as in Python.

// All rows, best first. `images` and `captions` have the cosine of each row with the query, `words`
// the BM25 of rows that share a word with it; `settings` are those of `Ranking` in Python, and
// `counts` returns whether a row has a caption, with a vector, that counts.
export function rankedRows(images, captions, words, settings, counts) {
  const { image_weight, caption_weight, words_weight, words_half, uncaptioned } = settings;
  const score = (image, row) => {
    const caption = counts(row) ? captions[row] : uncaptioned * image;
    const bm25 = words.get(row) ?? 0;
    const sum = image_weight * image + caption_weight * caption;
    // Scores of equal rows differ by rounding.
    return Math.round(1e6 * (sum + (words_weight * bm25) / (bm25 + words_half)));
  };
  const scores = Array.from(images, score);
  return [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b);
}
