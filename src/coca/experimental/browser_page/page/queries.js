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

// A text with the plural at its end in the singular.
function singular(text, rules) {
  const start = text.lastIndexOf(" ") + 1;
  const word = text.slice(start);
  const lower = word.toLowerCase();
  if (rules.no_plural.includes(lower)) return text;
  if (Object.hasOwn(rules.irregular, lower)) return text.slice(0, start) + rules.irregular[lower];
  for (const [ending, replaced] of rules.endings) {
    if (new RegExp(ending).test(lower)) {
      return text.slice(0, start) + word.replace(new RegExp(ending, "i"), replaced);
    }
  }
  return text;
}

// The texts whose mean embedding is that of a query: as typed, without stop words, and in the
// singular.
export function forms(query, rules) {
  const text = nameEmoji(query, rules);
  const bare = words(text).map((word) => word.replace(EDGE, ""));
  const content = bare.filter((word) => word && !rules.stop.includes(word.toLowerCase()));
  const joined = content.join(" ") || text;
  const short = content.length <= rules.max_words;
  return [...new Set([text, joined, short ? singular(joined, rules) : joined])];
}
