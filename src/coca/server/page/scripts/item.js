// View of one item: image, captions, metadata, tags, questions, and word attention.

import { api, urlOf } from "./api.js";
import { attentionWords } from "./attention.js";
import { $, button, date, h } from "./dom.js";
import { confirmDeletion } from "./dialogs.js";
import { saveBlob } from "./files.js";
import { announce, report, toast } from "./notices.js";
import { askPanel } from "./questions.js";
import { drawRegion } from "./region.js";
import { showImage, thumbnailPath } from "./thumbnails.js";
import { labelOf, scoresOf } from "./tile.js";

const SWIPE_PX = 50;
/** Kind of an item's date -> its name. */
const DATES = { taken: "Taken", file: "File date", added: "Added" };
/** Metadata that the view shows elsewhere. */
const SHOWN = new Set(["captions", "name"]);

/** Show an address as a link, and any other value as text. */
const linked = (value) =>
  /^https?:\/\//.test(value) ? h("a", { href: value, target: "_blank", rel: "noopener" }, value) : value;

export class ItemView {
  #stopDrawing = null;
  #request = null;

  /**
   * @param {object} options `store`, `wall`, `terms`, `can(capability)`, `writable()`,
   *   `onChanged(ids)` and `onDeleted(ids)`
   */
  constructor(options) {
    Object.assign(this, options);
    this.item = null;
    this.dialog = h("dialog", { class: "item", "aria-labelledby": "item-title" });
    this.dialog.addEventListener("close", () => this.#closed());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    document.body.append(this.dialog);
  }

  /** Show the item of an id; it is read from the service unless the wall has it. */
  async show(id) {
    if (this.item?.id === id && this.dialog.open) return;
    this.#request?.abort();
    this.#request = new AbortController();
    const index = this.wall.indexOf(id);
    let item = index >= 0 ? this.wall.item(index) : null;
    if (item) this.wall.reveal(index);
    else {
      try {
        const { collection } = this.store.state;
        item = await api.item(id, collection, this.#request.signal);
      } catch (error) {
        if (error.name === "AbortError") return;
        report(error);
        this.store.set({ item: "" }, { replace: true });
        return;
      }
    }
    this.item = item;
    this.#draw();
    if (!this.dialog.open) this.dialog.showModal();
    announce(labelOf(item));
  }

  /** Draw again when the wall has the opened item, or further neighbours of it. */
  found() {
    if (!this.item || this.#stopDrawing) return;
    const index = this.wall.indexOf(this.item.id);
    if (index < 0 || this.#neighbours() === this.drawn) return;
    this.item = this.wall.item(index);
    this.#draw();
  }

  #neighbours() {
    const index = this.wall.indexOf(this.item.id);
    if (index < 0) return "";
    return [-1, 1].map((step) => this.wall.item(index + step)?.id ?? "none").join();
  }

  hide() {
    if (this.dialog.open) this.dialog.close();
  }

  #closed() {
    this.#stopDrawing?.();
    this.#stopDrawing = null;
    const index = this.item ? this.wall.indexOf(this.item.id) : -1;
    this.item = null;
    if (this.store.state.item) this.store.set({ item: "" });
    if (index >= 0) this.wall.focus(index);
  }

  #key(event) {
    if (event.target.matches("input, textarea") || this.#stopDrawing) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      event.preventDefault();
      this.#step(step);
    } else if (event.key === "x") this.wall.select(this.item, false);
  }

  #step(step) {
    const index = this.wall.indexOf(this.item.id);
    const next = index < 0 ? null : this.wall.item(index + step);
    if (next) this.store.set({ item: next.id, at: index + step }, { replace: true });
  }

  #draw() {
    this.#stopDrawing?.();
    this.#stopDrawing = null;
    const { item } = this;
    const index = this.wall.indexOf(item.id);
    this.drawn = this.#neighbours();
    const image = h("img", { class: "item-image", alt: labelOf(item) });
    image.addEventListener("error", () => stage.classList.add("item-missing"), { once: true });
    showImage(image, thumbnailPath(item, 1024));
    this.frame = h("div", { class: "region-frame" }, image);
    if (item.width && item.height) {
      image.classList.add("sized");
      this.frame.style.setProperty("--ratio", item.width / item.height);
      this.frame.style.setProperty("--pixels", Math.min(item.width, 1024));
    }
    const step = (label, iconName, by, enabled) =>
      button(label, iconName, () => this.#step(by), { class: `item-${iconName}`, disabled: !enabled });
    let from = null;
    const stage = h(
      "div",
      {
        class: "item-stage",
        on: {
          pointerdown: (event) => (from = event.pointerType === "touch" ? event : null),
          pointerup: (event) => {
            const [x, y] = from ? [event.clientX - from.clientX, event.clientY - from.clientY] : [0, 0];
            from = null;
            const swiped = Math.abs(x) > SWIPE_PX && Math.abs(x) > 2 * Math.abs(y);
            if (swiped && !this.#stopDrawing) this.#step(x < 0 ? 1 : -1);
          },
        },
      },
      this.frame,
      h("p", { class: "item-missing-note" }, "The image cannot be read any more."),
      step("Previous image", "left", -1, index > 0),
      step("Next image", "right", 1, index >= 0 && this.wall.item(index + 1)),
    );
    const panel = h(
      "div",
      { class: "item-panel" },
      h(
        "div",
        { class: "item-head" },
        h("h2", { id: "item-title" }, item.name || item.id),
        button("Close", "close", () => this.dialog.close(), { autofocus: true }),
      ),
      this.#actions(),
      this.#captions(),
      this.can("answer") && askPanel(item, this.store.state.collection),
      this.#tags(),
      this.#details(),
    );
    this.dialog.replaceChildren(stage, panel);
    panel.scrollTop = 0;
    // Without a focus inside, the keys of the view would be lost.
    if (this.dialog.open && !this.dialog.contains(document.activeElement)) $(".item-head button", panel).focus();
  }

  #actions() {
    const { item, terms } = this;
    const query = (sign) => () => terms.add(terms.ofItem(item, sign));
    const actions = [
      button("Similar", "similar", () => terms.similarTo(item), { text: true }),
      button("More like this", "more", query(1), { text: true }),
      button("Less like this", "less", query(-1), { text: true }),
      button("Search a region", "region", () => this.#drawRegion(), {
        text: true, title: "Draw a region of the image to search by",
      }),
      button("Download", "download", () => this.#download(), { text: true }),
    ];
    if (this.writable()) {
      actions.push(button("Delete", "trash", () => this.#delete(), { text: true, class: "button-quiet-danger" }));
    }
    return h("div", { class: "item-actions" }, ...actions);
  }

  #drawRegion() {
    if (this.#stopDrawing) return;
    this.frame.parentElement.scrollIntoView({ block: "nearest" });
    const { item } = this;
    const stop = drawRegion(this.frame, {
      start: null,
      action: "Search this region",
      onDone: (region) => {
        this.#stopDrawing = null;
        this.terms.similarTo(item, region);
      },
      onCancel: () => {
        this.#stopDrawing = null;
        $(".item-actions button", this.dialog)?.focus();
      },
    });
    this.#stopDrawing = stop;
  }

  async #download() {
    try {
      saveBlob(await api.blob(this.item.original), this.item.name || this.item.id);
    } catch (error) {
      report(error);
    }
  }

  async #delete() {
    const { item } = this;
    if (!(await confirmDeletion(labelOf(item), [item]))) return;
    try {
      await api.remove(this.#body({ ids: [item.id] }));
      this.store.set({ item: "" });
      toast("1 image deleted");
      this.onDeleted([item.id]);
    } catch (error) {
      report(error);
    }
  }

  #body(body) {
    const { collection } = this.store.state;
    return collection ? { ...body, collection } : body;
  }

  #captions() {
    const { item } = this;
    const generated = h("div", { class: "generated" });
    const explains = this.can("explain");
    const write = button(explains ? "Caption and attention" : "Describe this image", "write", async () => {
      write.disabled = true;
      write.classList.add("busy");
      try {
        const body = this.#body({ id: item.id, attention: explains });
        const answer = await api.caption(body);
        if (this.item?.id === item.id) this.#showCaption(generated, answer);
      } catch (error) {
        report(error);
      } finally {
        write.disabled = false;
        write.classList.remove("busy");
      }
    }, {
      text: true,
      title: explains ? "Generate a caption, and show where the model looks at each word" : "Generate a caption",
    });
    const sources = { given: "given with the image", model: "generated" };
    const captions = item.captions?.length ? item.captions : [item.caption].filter(Boolean);
    return h(
      "section",
      { class: "item-section", "aria-label": "Captions" },
      captions.length
        ? h("p", { class: "item-caption" }, captions[0])
        : h("p", { class: "hint" }, "No caption"),
      captions.length > 1 && h(
        "ul", { class: "item-captions", role: "list" },
        ...captions.slice(1).map((caption) => h("li", {}, caption)),
      ),
      sources[item.caption_source] && h("p", { class: "hint" }, `Caption ${sources[item.caption_source]}`),
      this.can("caption") && write,
      generated,
    );
  }

  #showCaption(root, { captions, attention, attention_region: region }) {
    const [best] = captions;
    const save = button("Use as caption", "check", async () => {
      await this.#change({ caption: best.text }, "The caption is saved");
    }, { text: true });
    const shown = attention?.length
      ? [
        attentionWords(this.frame, attention, region),
        h("p", { class: "hint" }, "Point at a word to see where the model looks."),
      ]
      : [h("p", { class: "item-caption" }, best?.text || "The model wrote no caption.")];
    root.replaceChildren(...shown);
    if (this.writable() && best?.text && best.text !== this.item.caption) root.append(save);
    announce(`Generated caption: ${best?.text ?? "none"}`);
  }

  async #change(changes, message) {
    const { item } = this;
    try {
      await api.change(this.#body({ ids: [item.id], ...changes }));
      const { collection } = this.store.state;
      Object.assign(item, await api.item(item.id, collection));
      if (message) toast(message);
      this.onChanged([item.id]);
      if (this.item?.id === item.id) this.#draw();
    } catch (error) {
      report(error);
    }
  }

  #tags() {
    const { item } = this;
    const writable = this.writable();
    const search = (tag) => () => this.store.set({ tags: [...new Set([...this.store.state.tags, tag])], item: "" });
    const tags = item.tags.map((tag) =>
      h(
        "li",
        { class: "tag" },
        h("button", {
          type: "button", class: "tag-name", title: `Show images tagged ${tag}`, on: { click: search(tag) },
        }, tag),
        writable && button(`Remove the tag ${tag}`, "close", () => this.#change({ remove_tags: [tag] }), {
          class: "tag-remove",
        }),
      ),
    );
    const input = h("input", {
      class: "field field-small", "aria-label": "New tag", placeholder: "Add a tag", maxlength: "170",
      autocomplete: "off",
    });
    const form = h("form", {
      class: "tag-form",
      on: {
        submit: async (event) => {
          event.preventDefault();
          const tag = input.value.trim();
          if (!tag) return;
          await this.#change({ add_tags: [tag] });
          $(".tag-form input", this.dialog)?.focus();
        },
      },
    }, input);
    return h(
      "section",
      { class: "item-section", "aria-labelledby": "item-tags" },
      h("h3", { id: "item-tags" }, "Tags"),
      tags.length > 0 && h("ul", { class: "tags", role: "list" }, ...tags),
      !tags.length && !writable && h("p", { class: "hint" }, "No tags"),
      writable && form,
    );
  }

  #details() {
    const { item } = this;
    const rows = [
      ["Album", item.album],
      [DATES[item.date_source], item.time ? date(item.time) : ""],
      ["Size", item.width ? `${item.width} × ${item.height} pixels` : ""],
      ["File", item.path],
      ["Id", item.id],
      ...scoresOf(item),
      ...Object.entries(item.metadata)
        .filter(([key]) => !SHOWN.has(key))
        .map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]),
    ].filter(([, value]) => value);
    const link = h("a", { href: urlOf(item.original), target: "_blank", rel: "noopener" }, "Open the original");
    return h(
      "section",
      { class: "item-section", "aria-labelledby": "item-details" },
      h("h3", { id: "item-details" }, "Details"),
      h("dl", { class: "details" }, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, linked(value))])),
      h("p", {}, link),
    );
  }
}

