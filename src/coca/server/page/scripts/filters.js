// Filters: facets of tags, albums and metadata, a date histogram, and a filter expression.

import { api, hasRoute } from "./api.js";
import { button, h, shorten } from "./dom.js";
import { histogram } from "./histogram.js";
import { count as counted, number, t } from "./language.js";
import { report } from "./notices.js";
import { hasFilters, scopeOf } from "./state.js";

const NAMES = {
  tags: "Tags", album: "Folder", caption_source: "Captions", "metadata.albums": "Albums",
  "metadata.favorite": "Favorites", "metadata.rating": "Rating",
  "metadata.people": "People", "metadata.city": "Town", "metadata.country": "Country", "metadata.camera": "Camera",
  "metadata.lens": "Lens", "metadata.title": "Title", "metadata.ocr_text": "Text in the image", "metadata.raw_file": "Raw file",
};
const SHOWN = 8;
/** Metadata that no family filters by; the advanced filter can. */
export const TECHNICAL = ["orientation", "utc_offset", "flash", "exposure_s", "f_number", "focal_length", "iso", "latitude", "longitude", "altitude"];
const HIDDEN = new Set(TECHNICAL.map((name) => `metadata.${name}`));

/** Name a field for people. */
export const titleOf = (field) => {
  const name = field.replace(/^metadata\./, "").replaceAll("_", " ");
  return t(NAMES[field] ?? NAMES[`metadata.${field}`] ?? name.charAt(0).toUpperCase() + name.slice(1));
};

/** Name a value of a field for people. */
export function valueName(field, value) {
  if (field === "caption_source") return t({ given: "given with the image", model: "generated" }[value] ?? "none");
  if (field === "metadata.favorite") return t("Favorites");
  if (field === "metadata.rating" && value > 0) return "★".repeat(value);
  // An album is often a folder, whose last part distinguishes it.
  if (field === "album") return value.replace(/\/+$/, "").split("/").at(-1);
  return String(value);
}

export class Filters {
  #request = null;
  #response = null;
  #expanded = new Set();

  constructor(root, toggle, store) {
    this.root = root;
    this.toggle = toggle;
    this.store = store;
    toggle.setAttribute("aria-expanded", String(this.shown));
    toggle.addEventListener("click", () => this.open(!this.shown));
    root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#covers()) return;
      event.stopPropagation();
      this.open(false);
    });
  }

  get shown() {
    return document.documentElement.dataset.filters === "open";
  }

  /** Show or hide the panel; this browser remembers it. */
  open(shown) {
    const saved = shown ? "open" : "closed";
    document.documentElement.dataset.filters = saved;
    localStorage.setItem("coca.filters", saved);
    this.toggle.setAttribute("aria-expanded", String(shown));
    if (shown) {
      this.load();
      if (this.#covers()) this.root.querySelector("button")?.focus();
    } else this.toggle.focus({ preventScroll: true });
  }

  /** Count the values again, after a change of the filters or the items. */
  async load() {
    if (!this.shown) return;
    this.#request?.abort();
    this.#request = new AbortController();
    this.draw();
    if (!hasRoute("post", "/v1/facets")) return;
    try {
      this.#response = await api.facets(scopeOf(this.store.state), this.#request.signal);
      this.draw();
    } catch (error) {
      if (error.status === 400 || error.name === "AbortError") return;
      report(error);
    }
  }

  draw() {
    const { state } = this.store;
    const badge = this.#number();
    this.toggle.querySelector(".badge")?.remove();
    if (badge) this.toggle.append(h("span", { class: "badge" }, String(badge)));
    if (!this.shown) return;
    const focused = this.root.contains(document.activeElement) ? document.activeElement.id : "";
    const sections = this.#response ? this.#sections(this.#response) : [this.#waiting()];
    this.root.replaceChildren(
      h(
        "div",
        { class: "filters-head" },
        h("h2", {}, t("Filters")),
        hasFilters(state) && button(t("Clear all"), null, () => this.clear(), { text: true, class: "button-quiet" }),
        button(t("Close the filters"), "close", () => this.open(false), { class: "filters-close" }),
      ),
      ...sections,
      this.#expression(),
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  clear() {
    this.store.set({ tags: [], values: {}, from: "", to: "", filter: "" });
  }

  #covers() {
    return matchMedia("(max-width: 760px)").matches;
  }

  #number() {
    const { tags, values, from, to, filter } = this.store.state;
    const chosen = Object.values(values).reduce((sum, one) => sum + one.length, 0);
    return tags.length + chosen + Number(Boolean(from || to)) + Number(Boolean(filter));
  }

  #sections({ facets, histogram: dates, total }) {
    const { state } = this.store;
    const shown = facets.filter(({ field, values }) => (values.length && !HIDDEN.has(field)) || this.#chosen(field).length);
    return [
      h("p", { class: "hint" }, counted(total, "image")),
      (dates?.buckets.length > 0 || state.from || state.to) && this.#dates(dates),
      ...shown.map((facet) => this.#facet(facet)),
    ];
  }

  #waiting() {
    if (hasRoute("post", "/v1/facets")) return h("p", { class: "hint" }, t("Counting…"));
    return this.#dates(null);
  }

  #dates(dates) {
    return h(
      "section",
      { class: "facet", "aria-labelledby": "facet-dates" },
      h("h3", { id: "facet-dates" }, t("Date")),
      histogram(dates, this.store.state, (range) => this.store.set(range)),
    );
  }

  #chosen(field) {
    const { tags, values } = this.store.state;
    return field === "tags" ? tags : (values[field] ?? []);
  }

  #choose(field, value, chosen) {
    const values = this.#chosen(field).filter((one) => one !== value);
    if (chosen) values.push(value);
    if (field === "tags") this.store.set({ tags: values });
    else this.store.set({ values: { ...this.store.state.values, [field]: values } });
  }

  #facet({ field, values, others }) {
    const chosen = this.#chosen(field);
    const known = new Set(values.map(({ value }) => value));
    const all = [
      ...chosen.filter((value) => !known.has(value)).map((value) => ({ value, count: 0 })),
      ...values,
    ];
    const expanded = this.#expanded.has(field);
    const shown = expanded ? all : all.slice(0, SHOWN);
    const rows = shown.map(({ value, count }, at) => this.#value(field, value, count, at, chosen));
    const more = all.length - shown.length;
    const title = `facet-${field}`;
    return h(
      "section",
      { class: "facet", "aria-labelledby": title },
      h("h3", { id: title }, titleOf(field)),
      h("ul", { role: "list" }, ...rows),
      more > 0 && button(t("{number} more", { number: more }), null, () => {
        this.#expanded.add(field);
        this.draw();
      }, { text: true, class: "button-quiet" }),
      more <= 0 && others > 0 && h("p", { class: "hint" }, t("and {number} rarer values", { number: number(others) })),
    );
  }

  #value(field, value, count, at, chosen) {
    const name = valueName(field, value);
    const box = h("input", {
      type: "checkbox", id: `facet-${field}-${at}`, checked: chosen.includes(value),
      on: { change: () => this.#choose(field, value, box.checked) },
    });
    return h(
      "li",
      {},
      h(
        "label",
        { class: "facet-value", title: String(value) },
        box,
        h("span", { class: "facet-name" }, shorten(name || t("none"), 60)),
        h("span", { class: "facet-count" }, number(count)),
      ),
    );
  }

  #expression() {
    const { state } = this.store;
    const input = h("input", {
      class: "field field-small", id: "filter-expression", value: state.filter, autocomplete: "off",
      spellcheck: "false", placeholder: "width > 1000", "aria-describedby": "filter-hint",
    });
    const submit = (event) => {
      event.preventDefault();
      this.store.set({ filter: input.value.trim() });
    };
    return h(
      "details",
      { class: "facet", open: Boolean(state.filter) },
      h("summary", {}, t("Advanced filter")),
      h(
        "form",
        { class: "filter-form", on: { submit } },
        h("label", { class: "visually-hidden", for: "filter-expression" }, t("Advanced filter")),
        input,
        button(t("Apply"), null, () => {}, { text: true, type: "submit" }),
      ),
      h("p", { class: "hint", id: "filter-hint" }, t("As in Milvus: {example}", { example: 'width > 1000 and album == "holidays"' })),
    );
  }
}
