// Filters: facets of tags, folders and metadata, and dates.

import { api } from "./api.js";
import { button, h, shorten } from "./dom.js";
import { count as counted, number, t } from "./language.js";
import { countedOf, hasFilters } from "./state.js";
import { FAVOURITE, fileOf } from "./tile.js";

const NAMES = {
  tags: "Tags", album: "Folder", caption_source: "Captions",
  "metadata.people": "People", "metadata.city": "Town", "metadata.country": "Country", "metadata.camera": "Camera",
  "metadata.lens": "Lens", "metadata.title": "Title", "metadata.ocr_text": "Text in the image", "metadata.raw_file": "Raw file",
};
const SHOWN = 8;
/** Metadata that no family filters by. */
export const TECHNICAL = ["orientation", "utc_offset", "flash", "exposure_s", "f_number", "focal_length", "iso", "latitude", "longitude", "altitude"];
const UNSHOWN = new Set([...TECHNICAL, "seconds"].map((name) => `metadata.${name}`));

/** Whether a value is an address of the web, by which nobody filters. */
export const isAddress = (value) => /^https?:\/\//.test(value);

/** Name a field for people. */
export const titleOf = (field) => {
  const name = field.replace(/^metadata\./, "").replaceAll("_", " ");
  return t(NAMES[field] ?? NAMES[`metadata.${field}`] ?? name.charAt(0).toUpperCase() + name.slice(1));
};

/** Name a value of a field for people. */
export function valueName(field, value) {
  if (field === "caption_source") return t({ given: "given with the image", model: "generated" }[value] ?? "none");
  if (field === "tags" && value === FAVOURITE) return t("Favourite");
  // The last part of a folder distinguishes it.
  if (field === "album") return value.replace(/\/+$/, "").split("/").at(-1);
  return String(value);
}

/** Name the folder of an item; of a frame, that of its video. */
export const folderOf = (item) =>
  valueName("album", item.video ? item.album.replace(`/${fileOf(item)}`, "") : item.album);

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
    this.#response = await api.facets(countedOf(this.store.state), this.#request.signal);
    this.draw();
  }

  draw() {
    const { state } = this.store;
    if (!this.shown) return;
    const focused = this.root.contains(document.activeElement) ? document.activeElement.id : "";
    const sections = this.#response ? this.#sections(this.#response) : [h("p", { class: "hint" }, t("Counting…"))];
    this.root.replaceChildren(
      h("div", { class: "filters-head" },
        h("h2", {}, t("Filters")),
        hasFilters(state) && button(t("Clear all"), null, () => this.clear(), { text: true, class: "button-quiet" }),
        button(t("Close the filters"), "close", () => this.open(false), { class: "filters-close" }),
      ),
      ...sections,
    );
    if (focused) document.getElementById(focused)?.focus();
  }

  clear() {
    this.store.set({ tags: [], values: {}, from: "", to: "" });
  }

  #covers() {
    return matchMedia("(max-width: 760px)").matches;
  }

  #sections({ facets, total, complete }) {
    // A value that all images share narrows nothing.
    const divides = ({ field, values, others }) =>
      !UNSHOWN.has(field) && !values.every(({ value }) => isAddress(value)) && (others || values.some(({ count }) => count < total));
    const shown = facets.filter((facet) => divides(facet) || this.#chosen(facet.field).length);
    return [
      h("p", { class: "hint" }, counted(total, "image", complete)),
      this.#dates(),
      ...shown.map((facet) => this.#facet(facet)),
    ];
  }

  #dates() {
    const { state } = this.store;
    const field = (name, label) => {
      const input = h("input", {
        class: "field field-small", type: "date", id: `date-${name}`, value: state[name],
        on: { change: () => this.store.set({ [name]: input.value }) },
      });
      return h("label", { class: "date-field" }, h("span", {}, label), input);
    };
    return h("section", { class: "facet", "aria-labelledby": "facet-dates" },
      h("h3", { id: "facet-dates" }, t("Date")),
      h("div", { class: "date-fields" }, field("from", t("From")), field("to", t("To"))),
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
    return h("section", { class: "facet", "aria-labelledby": title },
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
    return h("li", {},
      h("label", { class: "facet-value", title: name },
        box,
        h("span", { class: "facet-name" }, shorten(name || t("none"), 60)),
        h("span", { class: "facet-count" }, number(count)),
      ),
    );
  }
}
