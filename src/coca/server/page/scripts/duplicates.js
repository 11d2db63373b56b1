// Near-duplicates side by side, with what differs between them.

import { api } from "./api.js";
import { button, count, date, h, number } from "./dom.js";
import { confirmDeletion } from "./dialogs.js";
import { announce, report, toast } from "./notices.js";
import { showImage, sideFor, thumbnailPath } from "./thumbnails.js";
import { labelOf } from "./tile.js";

const DEFAULT_SIMILARITY = 0.95;
const MAX_GROUPS = 100;

export class Duplicates {
  #request = null;
  #similarity = DEFAULT_SIMILARITY;

  /** `options`: `store`, `writable()`, `addressOf(item)`, `onDeleted(ids)`. */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
  }

  async show() {
    this.#request?.abort();
    this.#request = new AbortController();
    const list = h("div", { class: "groups" }, h("p", { class: "hint busy-note" }, "Comparing all images…"));
    this.root.replaceChildren(this.#head(), list);
    const { collection } = this.store.state;
    const body = { min_similarity: this.#similarity, limit: MAX_GROUPS };
    if (collection) body.collection = collection;
    try {
      const { groups, total } = await api.duplicates(body, this.#request.signal);
      const text = groups.length ? count(total, "group") : "No near-duplicates";
      announce(text);
      list.replaceChildren(
        ...(groups.length ? groups.map(({ items }) => this.#group(items)) : [this.#none()]),
      );
      if (total > groups.length) {
        list.append(h("p", { class: "hint" }, `The ${groups.length} largest of ${number(total)} groups are shown.`));
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
      button("All images", "left", () => this.store.set({ view: "wall" }), { text: true }),
      h("h2", {}, "Near-duplicates"),
      h("label", { class: "range" }, h("span", {}, "Similarity at least "), output, range),
    );
  }

  #none() {
    return h(
      "div",
      { class: "empty" },
      h("h2", {}, "No near-duplicates"),
      h("p", {}, `No two images have a similarity of ${this.#similarity} or more.`),
    );
  }

  #group(items) {
    const element = h(
      "section",
      { class: "group", "aria-label": `${count(items.length, "image")} that are alike` },
      h("div", { class: "group-items" }, ...items.map((item) => this.#candidate(item, items, () => element))),
    );
    return element;
  }

  #candidate(item, items, group) {
    const image = h("img", { alt: labelOf(item), loading: "lazy" });
    showImage(image, thumbnailPath(item, sideFor(320)));
    const most = Math.max(...items.map((one) => one.width * one.height));
    const facts = [
      item.width ? `${item.width} × ${item.height}` : "size unknown",
      item.time ? date(item.time) : "",
      item.album,
      item.tags.join(", "),
    ].filter(Boolean);
    const largest = item.width * item.height === most && items.some((one) => one.width * one.height < most);
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
        largest && h("span", { class: "note" }, "largest"),
        ...facts.map((fact) => h("span", { class: "hint" }, fact)),
      ),
      this.writable() && h(
        "div",
        { class: "candidate-actions" },
        button("Keep only this", "check", () => this.#keep(item, items, group()), { text: true }),
        button(`Delete ${item.name || item.id}`, "trash", () => this.#delete([item], items, group())),
      ),
    );
  }

  async #keep(kept, items, group) {
    await this.#delete(items.filter((item) => item !== kept), items, group);
  }

  async #delete(deleted, items, group) {
    const name = count(deleted.length, "image");
    const names = deleted.map((item) => item.name || item.id).join(", ");
    if (!(await confirmDeletion(names, deleted))) return;
    const ids = deleted.map((item) => item.id);
    const body = { ids };
    if (this.store.state.collection) body.collection = this.store.state.collection;
    try {
      await api.remove(body);
    } catch (error) {
      report(error);
      return;
    }
    const left = items.filter((item) => !ids.includes(item.id));
    if (left.length > 1) group.replaceWith(this.#group(left));
    else group.remove();
    toast(`${name} deleted`);
    this.onDeleted(ids);
  }
}
