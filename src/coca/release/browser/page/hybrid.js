// Fusion of three rankings: by vectors of images, by vectors of captions, and by words (BM25).

// The rows of all rankings, best first. A ranking has `{ row, score }`, best first, and `counts`
// returns whether the caption of a row counts, `coverage` which fraction of the query's words it
// has; the settings are those of `Fusion` in Python.
export function fused(images, captions, words, settings, counts, coverage) {
  const joined = new Set();
  for (const depth of settings.depths) {
    const rankings = [images, captions, words].map((ranking) => ranking.slice(0, depth));
    const [, byCaption, byWords] = rankings;
    if (![...byCaption, ...byWords].some(({ row }) => counts(row))) break;
    const byVector = byCaption.length ? settings.text_weight * settings.vector_share : 0;
    const weights = [1 - settings.text_weight, byVector, settings.text_weight - byVector];
    // Earlier rows keep their rank: deeper rankings only append rows.
    for (const row of ordered(rankings, weights, settings, counts, coverage)) joined.add(row);
    if (rankings.every((ranking) => ranking.length < depth)) break;
  }
  // Those that no depth reaches, or all if the query is near no caption.
  for (const { row } of images) joined.add(row);
  return [...joined];
}

// The rows by the weighted sum of their normalized scores. A row whose caption does not count gets
// a part of the captions' weight for its image; one with a part of the words gets a part for them.
function ordered(rankings, weights, { uncaptioned }, counts, coverage) {
  const sums = new Map();
  const others = uncaptioned * (weights[1] + weights[2]);
  rankings.forEach((ranking, position) => {
    const gain = normalization(ranking);
    for (const { row, score } of ranking) {
      const whole = position === 2 ? weights[2] * coverage(row) : weights[position];
      const weight = counts(row) ? whole : position === 0 ? weights[0] + others : 0;
      if (weight) sums.set(row, (sums.get(row) ?? 0) + weight * gain(score));
    }
  });
  return [...sums].sort(([a, x], [b, y]) => y - x || a - b).map(([row]) => row);
}

// From the scores of a ranking to 0 to 1; to 1 if all are equal.
function normalization(ranking) {
  const highest = ranking[0]?.score;
  const lowest = ranking.at(-1)?.score;
  return (score) => (highest > lowest ? (score - lowest) / (highest - lowest) : 1);
}
