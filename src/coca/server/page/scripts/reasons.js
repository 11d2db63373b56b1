// Reasons of the hits of a typed query: their names, chips that keep the hits of one, and the fold of unlikely hits.

import { api } from "./api.js";
import { button } from "./dom.js";
import { number, t } from "./language.js";
import { unlikelyOf } from "./sections.js";

/** Reason of hits whose image alone was compared; tiles do not name it. */
export const LOOKS_LIKE = "looks like";

/** Kind of a reason -> its name. */
const REASONS = {
  tag: "Tag", person: "Person", place: "Place", album: "Album", year: "Year", caption: "Caption",
  "text in image": "Text in the image", "file name": "File name", [LOOKS_LIKE]: "Looks like it",
};
/** Number of hits among which those of one reason are looked for, and of chips. */
const [MOST, MOST_CHIPS] = [1000, 6];
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

/** Count the reasons of likely hits, most hits first: {reason, count, more}; `more`: further hits may follow. */
function countsOf(hits, isWhole) {
  const end = unlikelyOf(hits)[0]?.start;
  const counts = new Map();
  for (const { reason } of hits.slice(0, end)) if (reason) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  const more = end === undefined && !isWhole;
  return [...counts].map(([reason, count]) => ({ reason, count, more }))
    .sort((one, other) => other.count - one.count).slice(0, MOST_CHIPS);
}

/**
 * Leave out the hits of a page that probably do not show the query, unless all are such.
 * The result has the counts of `reasons`, and is `folded` if hits were left out.
 */
export function likelyPart(response, all) {
  const { hits, offset, limit } = response;
  const reasons = countsOf(hits, hits.length < limit);
  const [unlikely] = all ? [] : unlikelyOf(hits);
  if (!unlikely || offset + unlikely.start === 0) return { ...response, reasons };
  return { ...response, hits: hits.slice(0, unlikely.start), total: offset + unlikely.start, folded: true, reasons };
}

/** Return a source of the hits of one reason among the first ones of a query. */
export function ofReason(body, why) {
  let whole = null;
  return async (offset, limit, signal) => {
    whole ??= await api.search({ ...body, offset: 0, limit: MOST }, signal);
    const hits = whole.hits.filter(({ reason, likely }) => reason === why && likely !== false);
    const reasons = countsOf(whole.hits, whole.hits.length < MOST);
    return { ...whole, hits: hits.slice(offset, offset + limit), total: hits.length, reasons };
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
