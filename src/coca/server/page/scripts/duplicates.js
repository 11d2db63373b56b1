// Near-duplicates side by side, with what differs between them.

import { moveToTrash } from "./actions.js";
import { api } from "./api.js";
import { confirmDialog } from "./dialogs.js";
import { $, button, h } from "./dom.js";
import { count, date, number, t } from "./language.js";
import { announce, report } from "./notices.js";
import { showImage, sideFor, thumbnailPath } from "./thumbnails.js";
import { labelOf } from "./tile.js";

/** That of the service: it finds copies of half the size, and no two different photos. */
const DEFAULT_SIMILARITY = 0.9;
const MAX_GROUPS = 100;

/** Sort items so that the best one is the first: most pixels, then most bytes, then the oldest. */
const byQuality = (a, b) =>
  b.width * b.height - a.width * a.height || (b.bytes ?? 0) - (a.bytes ?? 0) || (a.time ?? 0) - (b.time ?? 0);

/** Format a size of a file. */
const fileSize = (bytes) =>
  bytes < 1e6 ? `${number(Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

export class Duplicates {
  #request = null;
  #similarity = DEFAULT_SIMILARITY;
  /** Group of items -> its element, as they are shown. */
  #shown = new Map();

  /** `options`: `store`, `writable()`, `addressOf(item)`, `onDeleted(ids)`. */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
  }

  async show() {
    this.#request?.abort();
    this.#request = new AbortController();
    const list = h("div", { class: "groups" }, h("p", { class: "hint busy-note" }, t("Comparing all images…")));
    this.#shown.clear();
    this.root.replaceChildren(this.#head(), list);
    const { collection } = this.store.state;
    const body = { min_similarity: this.#similarity, limit: MAX_GROUPS };
    if (collection) body.collection = collection;
    try {
      const { groups, total } = await api.duplicates(body, this.#request.signal);
      const none = t("No two images have a similarity of {least} or more.", { least: this.#similarity });
      announce(groups.length ? count(total, "group") : none);
      list.replaceChildren(
        ...(groups.length ? groups.map(({ items }) => this.#group(items)) : [h("p", {}, none)]),
      );
      if (groups.length && this.writable()) $(".duplicates-head", this.root).append(
        button(t("Keep the best of all"), "check", () => this.#keepBest(), {
          text: true, title: t("Of each group, keep the image with most pixels and bytes"),
        }),
      );
      if (total > groups.length) {
        list.append(h("p", { class: "hint" }, t("The {shown} largest of {all} groups are shown.", { shown: groups.length, all: number(total) })));
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      report(error);
      list.replaceChildren();
    }
  }

  hide() {
    this.#request?.abort();
    this.root.replaceChildren();
  }

  #head() {
    const output = h("output", { for: "min-similarity" }, this.#similarity.toFixed(3));
    const range = h("input", {
      type: "range", id: "min-similarity", min: "0.8", max: "1", step: "0.005", value: this.#similarity,
      on: {
        input: () => (output.value = Number(range.value).toFixed(3)),
        change: () => {
          this.#similarity = Number(range.value);
          this.show();
        },
      },
    });
    return h(
      "div",
      { class: "duplicates-head" },
      button(t("All images"), "left", () => this.store.set({ view: "wall" }), { text: true }),
      h("h2", {}, t("Near-duplicates")),
      h("label", { class: "range" }, h("span", {}, `${t("Similarity at least")} `), output, range),
    );
  }

  #group(items) {
    const best = items.toSorted(byQuality);
    const element = h(
      "section",
      { class: "group", "aria-label": t("{images} that are alike", { images: count(items.length, "image") }) },
      h("div", { class: "group-items" }, ...best.map((item) => this.#candidate(item, best, () => element))),
    );
    this.#shown.set(element, best);
    return element;
  }

  #candidate(item, items, group) {
    const image = h("img", { alt: labelOf(item), loading: "lazy" });
    showImage(image, thumbnailPath(item, sideFor(320)));
    const facts = [
      [(one) => one.width * one.height, item.width ? `${item.width} × ${item.height}` : t("size unknown")],
      [(one) => one.bytes, item.bytes && fileSize(item.bytes)],
      [(one) => one.time, item.time && date(item.time)],
      [(one) => one.album, item.album],
      [(one) => one.tags.join(), item.tags.join(", ")],
    ];
    // What all have in common is no help to choose.
    const style = (of) => (items.some((one) => of(one) !== of(item)) ? "strong" : "span");
    const isBest = item === items[0] && byQuality(items[0], items[1]) < 0;
    const open = (event) => {
      event.preventDefault();
      this.store.set({ item: item.id });
    };
    return h(
      "figure",
      { class: "candidate" },
      h("a", { href: this.addressOf(item), on: { click: open } }, image),
      h(
        "figcaption",
        {},
        h("strong", { class: "candidate-name", title: item.path }, item.name || item.id),
        isBest && h("span", { class: "note" }, t("best")),
        ...facts.map(([of, text]) => text && h(style(of), { class: "hint" }, text)),
      ),
      this.writable() && h(
        "div",
        { class: "candidate-actions" },
        button(t("Keep only this"), "check", () => this.#keep(item, items, group()), { text: true }),
        button(t("Delete {name}", { name: item.name || item.id }), "trash", () => this.#delete([item], items, group())),
      ),
    );
  }

  async #keep(kept, items, group) {
    await this.#delete(items.filter((item) => item !== kept), items, group);
  }

  async #delete(deleted, items, group) {
    const ids = deleted.map((item) => item.id);
    const changed = (moved) => {
      this.onDeleted(moved);
      // After an undo, the group is compared again.
      if (!group.isConnected || !this.#shown.has(group)) this.show();
    };
    if (!(await moveToTrash(ids, this.store.state.collection, changed))) return;
    this.#shown.delete(group);
    const left = items.filter((item) => !ids.includes(item.id));
    if (left.length > 1) group.replaceWith(this.#group(left));
    else group.remove();
  }

  /** Move all but the best image of each group to the trash. */
  async #keepBest() {
    const others = [...this.#shown.values()].flatMap(([, ...items]) => items.map(({ id }) => id));
    const name = t("{images} of {groups}", { images: count(others.length, "image"), groups: count(this.#shown.size, "group") });
    const text = t("{name} will be moved to the trash. The best image of each group stays.", { name });
    if (!(await confirmDialog(t("Keep the best of all?"), text, t("Move to the trash")))) return;
    await moveToTrash(others, this.store.state.collection, (ids) => {
      this.onDeleted(ids);
      this.show();
    });
  }
}
