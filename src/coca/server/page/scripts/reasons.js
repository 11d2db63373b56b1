// Reasons of the hits of a typed query: their names, chips that keep the hits of one, and the fold of unlikely hits.

import { api } from "./api.js";
import { button } from "./dom.js";
import { number, t } from "./language.js";

/** Reason of hits whose image alone was compared; tiles do not name it. */
export const LOOKS_LIKE = "looks like";

/** Kind of a reason -> its name. */
const REASONS = {
  tag: "Tag", person: "Person", place: "Place", album: "Album", year: "Year", caption: "Caption",
  "text in image": "Text in the image", "file name": "File name", [LOOKS_LIKE]: "Looks like it",
};
/** Number of hits among which those of one reason are looked for, and of chips. */
const [MOST, MOST_CHIPS] = [1000, 6];
/** Ranked searches end here; lists of all items do not. */
const MAX_RANKED = 16_384;
/** Letters of a caption before its first word of the query. */
const LEAD = 24;
const UNMARKED = new Set("and the with for from der die das und mit ein eine einer von".split(" "));

/** Name a reason: its kind, and the label behind a colon. */
export function nameOf(reason) {
  const [kind, ...label] = reason.split(": ");
  return [t(REASONS[kind]), ...label].join(": ");
}

/** Build the line of a tile: the label, or the caption with the words of the query in bold. */
export function lineOf({ reason, caption }, asked) {
  if (reason !== "caption") return [nameOf(reason)];
  const wanted = wordsOf(asked).filter((word) => word.length > 2 && !UNMARKED.has(word)).map(stemOf);
  const isWanted = (word) => wanted.some((stem) => word.startsWith(stem) && word.length < stem.length + 3);
  const parts = caption.split(/([\p{L}\p{N}]+)/u);
  const first = parts.findIndex((part) => isWanted(part.toLowerCase()));
  const before = parts.slice(0, Math.max(0, first)).join("");
  const lead = before.length > LEAD ? `… ${before.slice(-LEAD).replace(/^\S*\s/, "")}` : before;
  return [lead, ...parts.slice(Math.max(0, first)).map((part) => (isWanted(part.toLowerCase()) ? bold(part) : part))];
}

const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** Cut the ending of a plural. */
const stemOf = (word) => (word.length > 3 ? word.replace(/(e?s|en)$/, "") : word);

function bold(text) {
  const element = document.createElement("b");
  element.append(text);
  return element;
}

const isLikely = ({ likely }) => likely !== false;

/** Count the reasons of likely hits, most hits first: {reason, count, more}; `more`: further hits may follow. */
function countsOf(hits, isWhole) {
  const counts = new Map();
  for (const { reason } of hits.filter(isLikely)) if (reason) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  const more = !isWhole && isLikely(hits.at(-1));
  return [...counts].map(([reason, count]) => ({ reason, count, more }))
    .sort((one, other) => other.count - one.count).slice(0, MOST_CHIPS);
}

/** Return a source of all hits of a query, best first. */
export function allHits(body) {
  return async (offset, limit, signal) => {
    if (offset >= MAX_RANKED) return { hits: [], total: offset, limit };
    const response = await api.search({ ...body, offset, limit: Math.min(limit, MAX_RANKED - offset) }, signal);
    return { ...response, limit, reasons: countsOf(response.hits, response.hits.length < limit) };
  };
}

/**
 * Return a source of the likely hits of a query, whose last page is `folded` if others are left out. It has all
 * hits where none is likely, and where the service cannot judge them.
 */
export function likelyHits(body) {
  const [all, likely] = [allHits(body), allHits({ ...body, likely: true })];
  /** Promise of the source that the first hits decide. */
  let chosen = null;
  const choose = async (limit, signal) => {
    const response = await all(0, limit, signal);
    const found = response.hits.filter(isLikely);
    const isDivided = found.length < response.hits.length;
    if (response.hits.length < limit && found.length && isDivided) return listOf({ ...response, folded: true }, found);
    // Hits that are sorted by time are likely, and those of an image are not judged.
    const isJudged = !body.sort && response.hits.every(({ likely: one }) => one !== null);
    if (!isJudged || response.hits.length < limit) return startingWith(response, all);
    // Likely hits also follow after unlikely ones, on later pages as well.
    const alone = async (offset, count, stop) => {
      const page = await likely(offset, count, stop);
      const total = offset + page.hits.length;
      if (total === offset + count) return page;
      return { ...page, total, folded: isDivided || (await all(total, 1, stop)).hits.length > 0 };
    };
    const first = await alone(0, limit, signal).catch((error) => {
      if (!error.status) throw error;
      // The model judges no image, and these hits have all words of the query.
      return { hits: [] };
    });
    return first.hits.length ? startingWith(first, alone) : startingWith(response, all);
  };
  return async (offset, limit, signal) => {
    chosen ??= choose(limit, signal).catch((error) => {
      chosen = null;
      throw error;
    });
    return (await chosen)(offset, limit, signal);
  };
}

/** Return a source whose first page is read already. */
const startingWith = (first, read) => (offset, limit, signal) =>
  offset === 0 && limit === first.limit ? first : read(offset, limit, signal);

/** Return a source of a list that was read as a whole. */
const listOf = (response, hits) => async (offset, limit) =>
  ({ ...response, hits: hits.slice(offset, offset + limit), total: hits.length });

/** Return a source of the hits of one reason among the first ones of a query. */
export function ofReason(body, why) {
  let whole = null;
  return async (offset, limit, signal) => {
    whole ??= await allHits(body)(0, MOST, signal);
    return listOf(whole, whole.hits.filter((hit) => hit.reason === why && isLikely(hit)))(offset, limit);
  };
}

/** Build the chips of reasons; one that is pressed keeps its hits alone. */
export function reasonChips(reasons, store) {
  const { why } = store.state;
  if (reasons.length < 2 && !why) return [];
  return reasons.map(({ reason, count, more }) => {
    const isOn = reason === why;
    return button(`${nameOf(reason)} (${number(count)}${more ? "+" : ""})`, null, () => store.set({ why: isOn ? "" : reason }), {
      text: true, class: "chip-why", "aria-pressed": String(isOn),
    });
  });
}
