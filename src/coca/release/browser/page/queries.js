// The texts by which a query is embedded, with names for emoji, by `queries.json`.

// White space as Python has it.
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
// What is no part of a word in Python, around a word.
const EDGE = /^[^\p{L}\p{N}_]+|[^\p{L}\p{N}_]+$/gu;

function words(text) {
  return text.split(SPACE).filter(Boolean);
}

export function nameEmoji(text, rules) {
  const characters = [...text];
  if (!characters.some((it) => Object.hasOwn(rules.emoji, it))) return text;
  const named = characters.filter((it) => !rules.unspoken.includes(it));
  return words(named.map((it) => rules.emoji[it] ?? it).join("")).join(" ");
}

// The texts whose mean embedding is that of a query: as typed, and without stop words.
export function forms(query, rules) {
  const text = nameEmoji(query, rules);
  const bare = words(text).map((word) => word.replace(EDGE, ""));
  const content = bare.filter((word) => word && !rules.stop.includes(word.toLowerCase()));
  return [...new Set([text, content.join(" ") || text])];
}
