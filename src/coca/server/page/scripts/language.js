// Language of the page: messages are English in the code; a file of `languages` has a translation.

const LANGUAGES = ["de"];
const SAVED = "coca.language";

const wanted = localStorage.getItem(SAVED) ?? navigator.language;
export const language = LANGUAGES.find((one) => wanted.startsWith(one)) ?? "en";
/** Of several regions of a language, that of the reader. */
const locale = navigator.language.startsWith(language) ? navigator.language : language;
const messages = language === "en" ? {} : await translations();

// Without its file, the page is in English.
async function translations() {
  try {
    return await (await fetch(new URL(`../languages/${language}.json`, import.meta.url))).json();
  } catch {
    return {};
  }
}

/** Translate a message; `{name}` is replaced by a value. */
export function t(message, values = {}) {
  return (messages[message] ?? message).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Translate the texts and labels of a document, which are English in its HTML. */
export function translatePage(root = document) {
  document.documentElement.lang = language;
  for (const element of root.querySelectorAll("[data-t]")) {
    for (const name of ["aria-label", "title", "placeholder"]) {
      if (element.hasAttribute(name)) element.setAttribute(name, t(element.getAttribute(name)));
    }
    for (const node of /** @type {any} */ (element.childNodes)) {
      const text = node.nodeType === Node.TEXT_NODE && node.data.trim().replace(/\s+/g, " ");
      if (text) node.data = t(text);
    }
  }
}

/** Change the language, and load the page again. */
export function switchLanguage() {
  localStorage.setItem(SAVED, language === "en" ? "de" : "en");
  location.reload();
}

/** Format a number. */
export const number = (value) => new Intl.NumberFormat(locale).format(value);

/** Format a count with its noun, whose plural has an s in English; a part of them, not all, has a plus sign. */
export const count = (value, noun, isAll = true) =>
  `${number(value)}${isAll ? "" : "+"} ${t(value === 1 ? noun : `${noun}s`)}`;

/**
 * Format a date in seconds since 1970.
 * @param {number} seconds
 * @param {Intl.DateTimeFormatOptions} options
 */
export function date(seconds, options = { dateStyle: "medium", timeStyle: "short" }) {
  return new Intl.DateTimeFormat(locale, { timeZone: "UTC", ...options }).format(new Date(seconds * 1000));
}

/** Name the days from one to another, `YYYY-MM-DD`; empty is an unknown date. */
export function daysName(first, last) {
  if (!first) return t("Without a date");
  const [from, to] = [first, last].map((day) => Date.parse(`${day}T00:00:00Z`));
  if (Number.isNaN(from + to)) return first;
  /** @type {Intl.DateTimeFormatOptions} */
  const year = { timeZone: "UTC", year: "numeric" };
  /** @type {Intl.DateTimeFormatOptions} */
  const month = { ...year, month: "long" };
  /** @type {Intl.DateTimeFormatOptions} */
  const day = { ...month, day: "numeric" };
  if (from === to) return date(from / 1000, { ...day, weekday: "long" });
  const apart = (to - from) / 86_400_000;
  const options = apart < 32 ? day : apart < 366 ? month : year;
  return new Intl.DateTimeFormat(locale, options).formatRange(from, to);
}
