// Short queries as bare words, plurals with their singular, and emoji by name, by `queries.json`.

// White space as Python has it.
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;

function words(text) {
  return text.split(SPACE).filter(Boolean);
}

export function nameEmoji(text, rules) {
  const characters = [...text];
  if (!characters.some((it) => Object.hasOwn(rules.emoji, it))) return text;
  const named = characters.filter((it) => !rules.unspoken.includes(it));
  return words(named.map((it) => rules.emoji[it] ?? it).join("")).join(" ");
}

export function bareQuery(typed, rules) {
  const text = nameEmoji(typed, rules);
  let bare = words(text).join(" ");
  while (bare && rules.end.includes(bare.at(-1))) bare = bare.slice(0, -1);
  for (const removed of [rules.request, rules.article]) {
    bare = bare.replace(new RegExp(`^${removed}`, "i"), "");
  }
  const count = words(bare).length;
  return count > 0 && count <= rules.max_words ? bare : text;
}

export function singular(text, rules) {
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

// The texts whose mean embedding is that of a query.
export function forms(query, rules) {
  const bare = bareQuery(query, rules);
  if (words(bare).length > rules.max_words) return [bare];
  return [...new Set([bare, singular(bare, rules)])];
}

// The words of a query for BM25, each with its singular if it is a plural.
export function wordForms(query, rules) {
  const [first, ...others] = forms(bareQuery(query, rules), rules).map((text) => text.split(" "));
  const words = first.map((word, at) => [...new Set([word, ...others.map((it) => it[at])])]);
  const distinct = new Map(words.map((word) => [JSON.stringify(word), word]));
  return [...distinct.values()];
}
