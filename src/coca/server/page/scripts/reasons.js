// Reasons of the hits of a typed query: their names, sections of hits with the same reason, and unlikely hits.

import { api } from "./api.js";
import { button, shorten } from "./dom.js";
import { number, t } from "./language.js";

/** Reason of hits whose image alone was compared. */
export const LOOKS_LIKE = "looks like";

/** Kind of a reason -> its name. */
const REASONS = {
  tag: "Tag", person: "Person", place: "Place", album: "Album", year: "Year", caption: "Caption",
  "text in image": "Text in the image", "file name": "File name", [LOOKS_LIKE]: "Looks like it",
};
const MOST_BUTTONS = 6;
/** Ranked searches end here; lists of all items do not. */
const MAX_RANKED = 16_384;
/** Percentage from which tiles name what a classifier sees: of 600 photos, 94 % and more show it from here on. */
const SEEN = 50;
/** Letters of a caption before its first word of the query. */
const LEAD = 24;
const UNMARKED = new Set("and the with for from der die das und mit ein eine einer von".split(" "));

/** Name a reason: its kind, and the label behind a colon. */
export function nameOf(reason) {
  const [kind, ...label] = reason.split(": ");
  return [t(REASONS[kind]), ...label].join(": ");
}

/** Build the line of a tile: the label, the caption with the words of the query in bold, or what a classifier sees. */
export function lineOf({ reason, caption, metadata }, asked) {
  if (reason === LOOKS_LIKE) return seenOf(metadata.looks_like ?? {}, asked);
  if (reason !== "caption") return reason ? [nameOf(reason)] : [];
  const wanted = wordsOf(asked).filter((word) => word.length > 2 && !UNMARKED.has(word)).map(stemOf);
  const isWanted = (word) => wanted.some((stem) => word.startsWith(stem) && word.length < stem.length + 3);
  const parts = caption.split(/([\p{L}\p{N}]+)/u);
  const first = parts.findIndex((part) => isWanted(part.toLowerCase()));
  const before = parts.slice(0, Math.max(0, first)).join("");
  const lead = before.length > LEAD ? `… ${before.slice(-LEAD).replace(/^\S*\s/, "")}` : before;
  return [lead, ...parts.slice(Math.max(0, first)).map((part) => (isWanted(part.toLowerCase()) ? bold(part) : part))];
}

/** Name the noun of a query that a classifier sees in an image, with its probability. */
function seenOf(nouns, asked) {
  const words = new Set(wordsOf(asked).map(stemOf));
  const found = Object.entries(nouns).find(([noun, percentage]) => percentage >= SEEN && wordsOf(noun).every((word) => words.has(stemOf(word))));
  return found ? [t("Looks like: {label}", { label: `${found[0]} ${found[1]} %` })] : [];
}

const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** Cut the ending of a plural. */
const stemOf = (word) => (word.length > 3 ? word.replace(/(e?s|en)$/, "") : word);

function bold(text) {
  const element = document.createElement("b");
  element.append(text);
  return element;
}

/** Name a section of likely hits: why a query finds them. Of several reasons, only the last one names the query. */
function titleOf({ reasons }, asked) {
  const query = `“${shorten(asked, 40)}”`;
  const name = (reason) => {
    if (reason === "caption") return t("Caption fits {query}", { query });
    if (reason === LOOKS_LIKE) return t("Looks like {query}", { query });
    return reason.startsWith("tag: ") ? t("Tagged “{tag}”", { tag: reason.slice(5) }) : nameOf(reason);
  };
  return [...reasons.slice(0, -1).map(nameOf), ...reasons.slice(-1).map(name)].join(" · ");
}

/** Build the headings of likely hits, and of the others that follow them, see `sectionsOf` in sections.js. */
function headingsOf({ sections, sections_complete: isComplete }, asked) {
  let end = 0;
  const more = isComplete ? "" : "+";
  const headings = sections.map((section) => {
    const start = end;
    end += section.count;
    return { start, end, title: `${titleOf(section, asked)} (${number(section.count)}${more})` };
  });
  return [...headings, { start: end, end: Infinity, title: t(isComplete ? "Probably not" : "More results") }];
}

/**
 * Return a source of the hits of a query, for the wall. Hits that are sorted by time have no sections.
 * @param {any} body request
 * @param {{asked: string, all: boolean}} options `asked`: text of the query; `all`: whether unlikely hits follow the
 *   likely ones; else the last page of likely hits is `folded` if there are others
 */
export function hitsOf(body, { asked, all }) {
  const read = (offset, limit, signal) => api.search({ ...body, sections: !body.sort, offset, limit }, signal);
  return async (offset, limit, signal) => {
    if (offset >= MAX_RANKED) return { hits: [], total: offset };
    const response = await read(offset, Math.min(limit, MAX_RANKED - offset), signal);
    if (!response.sections) return response;
    const headings = headingsOf(response, asked);
    const { start: likely } = headings.at(-1);
    if (all || !likely || !response.sections_complete) return { ...response, headings };
    const hits = response.hits.slice(0, Math.max(0, likely - offset));
    const hasOthers = async () => hits.length < response.hits.length || (await read(likely, 1, signal)).hits.length > 0;
    const folded = offset + limit >= likely && (await hasOthers());
    return { ...response, hits, headings: headings.slice(0, -1), total: likely, folded };
  };
}

/** Build a button for each section, which shows it. */
export const sectionButtons = (sections, show) =>
  (sections.length < 2 ? [] : sections.slice(0, MOST_BUTTONS)
    .map((section) => button(section.title, null, () => show(section), { text: true, class: "chip-section only-wide" })));
