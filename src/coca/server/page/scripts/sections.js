// Sections of a list by date: days, of which neighbours with few images share a heading.

import { h } from "./dom.js";
import { daysName } from "./language.js";

/** Number of images with which a day, or a run of days, has a heading of its own. */
const FEW = 5;

/**
 * Build sections of a list that is sorted by date.
 * @param {{day: string, count: number}[]} days in the order of the list; an empty day has the items
 *   without a date
 * @returns {{start: number, end: number, title: string}[]} each from an index up to another
 */
export function sectionsOf(days) {
  const runs = [];
  let start = 0;
  for (const { day, count } of days) {
    const run = runs.at(-1);
    const end = start + count;
    if (run && run.days && day && count < FEW && run.end - run.start < FEW) Object.assign(run, { first: day, end });
    else runs.push({ start, end, first: day, last: day, days: day && count < FEW });
    start = end;
  }
  return runs.map(({ start: at, end, first, last }) => ({ start: at, end, title: daysName(first, last) }));
}

/** Name the places of items, those with most of them first. */
function placesOf(items) {
  const counts = new Map();
  for (const { metadata } of items) {
    const place = metadata?.city ?? metadata?.country;
    if (typeof place === "string") counts.set(place, (counts.get(place) ?? 0) + 1);
  }
  const names = [...counts].sort(([, one], [, other]) => other - one).map(([name]) => name);
  return names.slice(0, 3).join(", ") + (names.length > 3 ? " …" : "");
}

/** Build the heading of a section, at its position `y`, with the places of its items. */
export function headingOf({ title, y }, items) {
  const element = h("li", { class: "wall-heading" }, h("h2", {}, title), h("span", { class: "hint" }, placesOf(items)));
  element.style.transform = `translateY(${y}px)`;
  return element;
}
