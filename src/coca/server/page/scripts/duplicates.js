// Near-duplicates side by side, with what differs between them.

import { hide } from "./actions.js";
import { api } from "./api.js";
import { button, h } from "./dom.js";
import { folderOf } from "./filters.js";
import { count, date, number, t } from "./language.js";
import { announce, report } from "./notices.js";
import { showImage, sideFor, thumbnailPath } from "./thumbnails.js";
import { fileOf, labelOf, momentOf } from "./tile.js";

const MAX_GROUPS = 100;

const TITLES = {
  "same image": "The same image in other sizes or compressions",
  "part or edit": "Parts and edited versions, to look at",
};

export class Duplicates {
  store; writable; addressOf; onGone;
  #request = null;

  /** `options`: `store`, `writable()`, `addressOf(item)`, `onGone(ids)`. */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
  }

  async show() {
    this.#request?.abort();
    this.#request = new AbortController();
    const list = h("div", { class: "groups" }, h("p", { class: "hint" }, t("Comparing all images…")));
    this.root.replaceChildren(this.#head(), list);
    const { collection } = this.store.state;
    const body = { limit: MAX_GROUPS, ...(collection && { collection }) };
    try {
      const { groups, total } = await api.duplicates(body, this.#request.signal);
      const none = t("No two images are near-duplicates.");
      announce(groups.length ? count(total, "group") : none);
      list.replaceChildren(
        ...(groups.length ? this.#sections(groups) : [h("p", {}, none)]),
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
    return h("div", { class: "duplicates-head" },
      button(t("All images"), "left", () => this.store.set({ view: "wall" }), { text: true }),
      h("h2", {}, t("Near-duplicates")),
    );
  }

  /** Groups of each kind below its title. */
  #sections(groups) {
    return Object.entries(TITLES).flatMap(([kind, title]) => {
      const own = groups.filter((group) => group.kind === kind);
      return own.length ? [h("h3", {}, t(title)), ...own.map((group) => this.#group(group, 1 + groups.indexOf(group)))] : [];
    });
  }

  #group({ kind, items }, at) {
    const label = t("Group {number}: {images} that are alike", { number: at, images: count(items.length, "image") });
    return h("section", { class: "group", "aria-label": label },
      h("div", { class: "group-items" }, ...items.map((item) => this.#candidate(item, items, kind === "same image"))),
    );
  }

  #candidate(item, items, isCopy) {
    const image = h("img", { alt: labelOf(item), loading: "lazy" });
    showImage(image, thumbnailPath(item, sideFor(320)));
    const name = [fileOf(item), momentOf(item)].filter(Boolean).join(", ");
    const facts = [
      item.width ? `${item.width} × ${item.height}` : t("size unknown"),
      item.bytes && `${number(Math.round(item.bytes / 1e3))} kB`, item.time && date(item.time), folderOf(item), item.tags.join(", "),
    ];
    const isBest = isCopy && item === items[0];
    return h("figure", { class: "candidate" },
      h("a", { href: this.addressOf(item) }, image),
      h("figcaption", {},
        h("strong", { class: "candidate-name", title: name }, name),
        isBest && h("span", { class: "note" }, t("best")),
        ...facts.map((fact) => fact && h("span", { class: "hint" }, fact)),
      ),
      this.writable() && h("div", { class: "candidate-actions" },
        isCopy && button(t("Keep only this"), "check", () => this.#hide(items.filter((one) => one !== item)), { text: true }),
        button(t("Hide {name}", { name }), "hide", () => this.#hide([item])),
      ),
    );
  }

  #hide(items) {
    const gone = (ids) => {
      this.onGone(ids);
      this.show();
    };
    const names = items.map((item) => [folderOf(item), fileOf(item)].filter(Boolean).join("/"));
    return hide(items.map(({ id }) => id), this.store.state.collection, gone, names);
  }
}
