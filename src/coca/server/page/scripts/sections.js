// Sections of a list by date: months, or years where months have few images.

import { monthName } from "./language.js";

const MIN_ITEMS = 8;

/**
 * Build sections of a list that is sorted by date.
 * @param {{month: string, count: number}[]} months in the order of the list; an empty month has the
 *   items without a date
 * @returns {{start: number, title: string}[]} empty where each would have few items
 */
export function sectionsOf(months) {
  const sum = months.reduce((total, { count }) => total + count, 0);
  const group = [7, 4].find((letters) => {
    const groups = new Set(months.map(({ month }) => month.slice(0, letters)));
    return sum / groups.size >= MIN_ITEMS;
  });
  if (!group) return [];
  const sections = [];
  let start = 0;
  for (const { month, count } of months) {
    const title = group === 7 || !month ? monthName(month) : month.slice(0, 4);
    if (sections.at(-1)?.title !== title) sections.push({ start, title });
    start += count;
  }
  return sections;
}
