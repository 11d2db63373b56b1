// Panel of an opened item: captions, tags and details.

import { urlOf } from "./api.js";
import { captionSection, textsSection } from "./correct.js";
import { h } from "./dom.js";
import { framesSection } from "./frames.js";
import { TECHNICAL, folderOf, isAddress, titleOf, valueName } from "./filters.js";
import { date, t } from "./language.js";
import { fileOf, momentOf } from "./tile.js";

/** Kind of an item's date -> its name. */
const DATES = { taken: "Taken", file: "File date", added: "Added" };
/** Metadata that the panel shows elsewhere. */
const SHOWN = new Set(["captions", "looks_like", "name", "people", "seconds", ...TECHNICAL]);

/** Write exposure time, aperture, focal length and sensitivity as cameras do. */
function exposureOf({ exposure_s: time, f_number: aperture, focal_length: length, iso }) {
  const seconds = time && (time < 0.4 ? `1/${Math.round(1 / time)} s` : `${time} s`);
  const parts = [seconds, aperture && `f/${aperture}`, length && `${length} mm`, iso && `ISO ${iso}`];
  return parts.filter(Boolean).join(" · ");
}

/** Show a list as its values, and any other value as it is. */
const shownValue = (value) =>
  typeof value === "string" ? value : Array.isArray(value) ? value.map(shownValue).join(", ") : JSON.stringify(value);

/** Show an address as a link, and any other value as text. */
const linked = (value) =>
  isAddress(value) ? h("a", { href: value, target: "_blank", rel: "noopener" }, value) : value;

/** Function that writes changes; null if nobody may. */
const writerOf = (view) => (view.writable() ? (changes) => view.change(changes) : null);

const captionsOf = (view) => captionSection(view.item, writerOf(view));

function tagsOf(view) {
  const { item, store } = view;
  return textsSection(item, {
    title: t("Tags"), label: t("Add a tag"), field: "tags", texts: item.tags, change: writerOf(view),
    nameOf: (tag) => valueName("tags", tag),
    search: (tag) => store.set({ tags: [...new Set([...store.state.tags, tag])], item: "" }),
    add: (tag) => ({ add_tags: [tag] }),
    remove: (tag) => ({ remove_tags: [tag] }),
  });
}

function peopleOf(view) {
  const people = [view.item.metadata.people ?? []].flat();
  const write = (names) => ({ metadata: { people: names.length ? names : null } });
  return textsSection(view.item, {
    title: t("People"), label: t("Add a name"), field: "metadata.people", texts: people, change: writerOf(view),
    nameOf: (name) => name,
    search: null,
    add: (name) => write([...new Set([...people, name])]),
    remove: (name) => write(people.filter((one) => one !== name)),
  });
}

function detailsOf({ item }) {
  const { latitude, longitude } = item.metadata;
  const rows = [
    [t("Name"), item.name && fileOf(item)],
    [t("Moment"), momentOf(item)],
    [t("Folder"), folderOf(item)],
    [t(DATES[item.date_source] ?? "Date"), item.time ? date(item.time) : ""],
    [t("Size"), item.width ? t("{width} × {height} pixels", item) : ""],
    [t("Exposure"), exposureOf(item.metadata)],
    [t("Coordinates"), typeof latitude === "number" ? `${latitude.toFixed(4)}, ${longitude?.toFixed(4)}` : ""],
    [t("Copies"), item.copies > 1 ? item.copies : ""],
    ...Object.entries(item.metadata)
      .filter(([key]) => !SHOWN.has(key))
      .map(([key, value]) => [titleOf(key), shownValue(value)]),
  ].filter(([, value]) => value);
  const link = h("a", { href: urlOf(item.original), target: "_blank", rel: "noopener" }, t("Open the original"));
  return h("section", { class: "item-section", "aria-labelledby": "item-details" },
    h("h3", { id: "item-details" }, t("Details")),
    h("dl", { class: "details" }, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, linked(value))])),
    h("p", {}, link),
  );
}

/** Sections in their order: each is built from the view, or is null. */
const SECTIONS = [framesSection, ({ why }) => why.section(), captionsOf, tagsOf, peopleOf, detailsOf];

/** Build the panel of a view, which has `item`, `store`, `why`, `writable()` and `change(changes)`. */
export function buildPanel(view) {
  return h("div", { class: "item-panel", tabindex: "-1" }, ...SECTIONS.map((section) => section(view)));
}
