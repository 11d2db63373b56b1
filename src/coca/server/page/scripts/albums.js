// Albums of the collection, each with its newest image as the cover: those of people, then folders.

import { api } from "./api.js";
import { button, h } from "./dom.js";
import { titleOf, valueName } from "./filters.js";
import { count, t } from "./language.js";
import { announce, report } from "./notices.js";
import { emptyState } from "./state.js";
import { showImage } from "./thumbnails.js";

const FIELDS = ["metadata.albums", "album"];
const MAX_ALBUMS = 500;
const COVER_PX = 512;

export class Albums {
  /** `options`: `store`, `thumbnailOf(id, side)`. */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
  }

  async show() {
    const { collection } = this.store.state;
    const head = h(
      "div", { class: "duplicates-head" },
      button(t("All images"), "left", () => this.store.set({ view: "wall" }), { text: true }),
      h("h2", {}, t("Albums")),
    );
    this.root.replaceChildren(head, h("p", { class: "hint" }, t("Counting…")));
    try {
      const { facets } = await api.facets({ fields: FIELDS, covers: true, limit: MAX_ALBUMS, ...(collection && { collection }) });
      if (this.store.state.view !== "albums") return;
      const shown = facets.filter(({ values }) => values.length);
      const none = h("p", { class: "hint" }, t("No album yet. Select images, and add them to one."));
      this.root.replaceChildren(head, ...(shown.length ? shown.map((facet) => this.#albums(facet)) : [none]));
      announce(t("Albums"));
    } catch (error) {
      report(error);
    }
  }

  #albums({ field, values }) {
    return h(
      "section", { class: "facet" },
      h("h3", {}, titleOf(field)),
      h("ul", { class: "albums", role: "list" }, ...values.map((one) => h("li", {}, this.#album(field, one)))),
    );
  }

  #album(field, { value, count: size, cover }) {
    const image = h("img", { alt: "", loading: "lazy" });
    showImage(image, this.thumbnailOf(cover, COVER_PX));
    const open = () => {
      const { collection } = this.store.state;
      this.store.set({ ...emptyState(), collection, values: { [field]: [value] } });
    };
    return h(
      "button", { type: "button", class: "album", title: value, on: { click: open } },
      image, h("strong", {}, valueName(field, value)), h("span", { class: "hint" }, count(size, "image")),
    );
  }
}
