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
    for (const node of element.childNodes) {
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

/** Format a count with its noun, whose plural has an s in English. */
export const count = (value, noun) => `${number(value)} ${t(value === 1 ? noun : `${noun}s`)}`;

/** Format a date in seconds since 1970. */
export function date(seconds, options = { dateStyle: "medium", timeStyle: "short" }) {
  return new Intl.DateTimeFormat(locale, { timeZone: "UTC", ...options }).format(new Date(seconds * 1000));
}

/** Format a month, `YYYY-MM`; empty is an unknown date. */
export function monthName(month) {
  const seconds = Date.parse(`${month}-01T00:00:00Z`) / 1000;
  if (!month) return t("Without a date");
  return Number.isNaN(seconds) ? month : date(seconds, { month: "long", year: "numeric" });
}
