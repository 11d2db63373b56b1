// View of one item: image, captions, marks, metadata, questions, and word attention.

import { moveToTrash, writeItems } from "./actions.js";
import { api, urlOf } from "./api.js";
import { attentionWords } from "./attention.js";
import { confirmDeletion } from "./dialogs.js";
import { $, button, h, menu } from "./dom.js";
import { saveBlob } from "./files.js";
import { TECHNICAL, titleOf } from "./filters.js";
import { count, date, t } from "./language.js";
import { announce, report, toast } from "./notices.js";
import { askPanel } from "./questions.js";
import { drawRegion } from "./region.js";
import { showImage, thumbnailPath } from "./thumbnails.js";
import { labelOf, scoresOf } from "./tile.js";
import { Zoom } from "./zoom.js";

const SLIDE_MS = 4000;
const RETRY_MS = 3000;
const STARS = [1, 2, 3, 4, 5];
/** Kind of an item's date -> its name. */
const DATES = { taken: "Taken", file: "File date", added: "Added" };
const IS_AUDIO = /\.(aac|aiff?|flac|m4a|mp3|og[ag]|opus|wav)(#t=[\d.]+)?$/i;
/** Metadata that the view shows elsewhere. */
const SHOWN = new Set(["captions", "name", "favorite", "rating", "albums", "trashed", ...TECHNICAL]);

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
  /^https?:\/\//.test(value) ? h("a", { href: value, target: "_blank", rel: "noopener" }, value) : value;

const isTrashed = (item) => "trashed" in item.metadata;

export class ItemView {
  #stopDrawing = null;
  #request = null;
  #zoom = null;
  #slides = 0;

  /**
   * @param {object} options `store`, `wall`, `terms`, `can(capability)`, `writable()`,
   *   `onChanged(ids)` and `onDeleted(ids)`
   */
  constructor(options) {
    Object.assign(this, options);
    this.item = null;
    this.view = h("div", { class: "item-view", tabindex: "-1" });
    this.dialog = h("dialog", { class: "item", "aria-labelledby": "item-title" }, this.view);
    this.dialog.addEventListener("close", () => this.#closed());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("pointerdown", () => this.#slides && this.#slideshow(false));
    document.addEventListener("fullscreenchange", () => document.fullscreenElement || this.#slideshow(false));
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
    this.#slideshow(false);
    this.#stopDrawing?.();
    this.#stopDrawing = null;
    const index = this.item ? this.wall.indexOf(this.item.id) : -1;
    this.item = null;
    if (this.store.state.item) this.store.set({ item: "" });
    if (index >= 0) this.wall.focus(index);
  }

  #key(event) {
    if (event.target.matches("input, textarea") || this.#stopDrawing) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.#slides && event.key !== "s") this.#slideshow(false);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const actions = {
      x: () => this.wall.select(this.item, false),
      l: () => this.writable() && this.#favorite(),
      s: () => this.#slideshow(!this.#slides),
    };
    if (step) this.#step(step);
    else if (event.key in actions) actions[event.key]();
    else if (!this.#zoom?.key(event.key)) return;
    event.preventDefault();
  }

  /** Show the next image (1) or the one before (-1); returns whether there is one. */
  #step(step) {
    const index = this.wall.indexOf(this.item.id);
    const next = index < 0 ? null : this.wall.item(index + step);
    if (next) this.store.set({ item: next.id, at: index + step }, { replace: true });
    return Boolean(next);
  }

  /** Fill the screen, and show the next image every few seconds; or end that. */
  #slideshow(on) {
    if (on === Boolean(this.#slides)) return;
    clearInterval(this.#slides);
    this.#slides = 0;
    this.view.classList.toggle("slideshow", on);
    if (on) {
      this.#slides = setInterval(() => this.#step(1) || this.#slideshow(false), SLIDE_MS);
      this.view.focus();
      this.#fullScreen(true);
      announce(t("Slideshow"));
    } else if (document.fullscreenElement) this.#fullScreen(false);
  }

  /** A browser may refuse; the slideshow then fills the window. */
  #fullScreen(on) {
    return (on ? this.view.requestFullscreen?.() : document.exitFullscreen())?.catch(() => {});
  }

  #draw() {
    this.#stopDrawing?.();
    this.#stopDrawing = null;
    const { item } = this;
    this.drawn = this.#neighbours();
    const panel = h(
      "div",
      { class: "item-panel" },
      h(
        "div",
        { class: "item-head" },
        h("h2", { id: "item-title" }, item.caption || item.name || item.id),
        button(t("Close"), "close", () => this.dialog.close(), { autofocus: true }),
      ),
      item.purge_at && h("p", { class: "hint" }, t("In the trash until {date}", { date: date(Date.parse(item.purge_at) / 1000, { dateStyle: "medium" }) })),
      this.#actions(),
      this.writable() && this.#marks(),
      this.#captions(),
      this.can("answer") && askPanel(item, this.store.state.collection),
      this.#names(t("Tags"), item.tags, "tags"),
      this.#names(t("Albums"), item.albums, "albums"),
      this.#details(),
    );
    this.view.replaceChildren(this.#stage(), panel);
    panel.scrollTop = 0;
    // Without a focus inside, the keys of the view would be lost.
    if (!this.dialog.open || this.dialog.contains(document.activeElement)) return;
    if (this.#slides) this.view.focus();
    else $(".item-head button", panel).focus();
  }

  #stage() {
    const { item } = this;
    const index = this.wall.indexOf(item.id);
    const image = h("img", { class: "item-image", alt: labelOf(item), draggable: "false" });
    image.addEventListener("load", () => stage.classList.remove("item-missing"));
    image.addEventListener("error", () => {
      if (image.dataset.path === item.original) showImage(image, thumbnailPath(item, 1024));
      else this.#explain(stage, image.dataset.path);
    });
    showImage(image, thumbnailPath(item, 1024));
    this.frame = h("div", { class: "region-frame" }, image);
    if (item.width && item.height) {
      image.classList.add("sized");
      this.frame.style.setProperty("--ratio", item.width / item.height);
      this.frame.style.setProperty("--pixels", Math.min(item.width, 1024));
    }
    const player = IS_AUDIO.test(item.name) ? h("audio", { class: "item-audio", controls: true }) : "";
    if (player) showImage(player, item.original);
    const step = (label, iconName, by, enabled) =>
      button(label, iconName, () => this.#step(by), { class: `item-${iconName}`, disabled: !enabled });
    const stage = h(
      "div",
      { class: "item-stage" },
      this.frame,
      player,
      h("p", { class: "item-missing-note" }),
      step(t("Previous image"), "left", -1, index > 0),
      step(t("Next image"), "right", 1, index >= 0 && this.wall.item(index + 1)),
    );
    this.#zoom = new Zoom(stage, this.frame, {
      enabled: () => !this.#stopDrawing,
      // The thumbnail has few pixels; an image that no browser shows stays a thumbnail.
      onFirst: () => {
        if (item.width > 1024 || item.height > 1024) showImage(image, item.original);
      },
      onSwipe: (by) => this.#step(by),
    });
    return stage;
  }

  /** Say why an image is not shown. */
  async #explain(stage, path) {
    const text = await api.blob(path).then(
      () => t("The image cannot be shown."),
      ({ status }) => t(status === 0 ? "The service does not answer" : "The image cannot be read any more."),
    );
    $(".item-missing-note", stage).textContent = text;
    stage.classList.add("item-missing");
    if (text !== t("The service does not answer")) return;
    setTimeout(() => stage.isConnected && showImage($(".item-image", stage), path), RETRY_MS);
  }

  #actions() {
    const { item, terms } = this;
    const query = (sign) => () => terms.add(terms.ofItem(item, sign));
    const text = { text: true };
    const trashed = isTrashed(item);
    const more = [
      button(t("More like this"), "more", query(1), text),
      button(t("Less like this"), "less", query(-1), text),
      button(t("Search a region"), "region", () => this.#drawRegion(), text),
      button(t("Slideshow"), "play", () => this.#slideshow(true), text),
      button(t("Full screen"), "full", () => this.#fullScreen(!document.fullscreenElement), text),
      this.writable() && trashed && button(t("Restore"), "undo", () => this.#restore(), text),
      this.writable() && button(t(trashed ? "Delete forever" : "Delete"), "trash", () => this.#delete(), {
        text: true, class: "button-quiet-danger",
      }),
    ];
    return h(
      "div",
      { class: "item-actions" },
      button(t("Similar"), "similar", () => terms.similarTo(item), { text: true, class: "button-primary" }),
      button(t("Download"), "download", () => this.#download(), text),
      ...menu(t("More"), "menu", more.filter(Boolean)),
    );
  }

  /** Build the heart and the stars. */
  #marks() {
    const { item } = this;
    const heart = button(t("Favorite"), "heart", () => this.#favorite(), {
      class: "mark-favorite", "aria-pressed": String(item.favorite),
    });
    const star = (number) => {
      const change = { rating: number === item.rating ? 0 : number };
      return button(t("{stars} of 5 stars", { stars: number }), "star", () => this.#change(change), {
        class: "mark-star", "aria-pressed": String(number <= (item.rating ?? 0)),
      });
    };
    return h("div", { class: "marks", role: "group", "aria-label": t("Marks") }, heart, ...STARS.map(star));
  }

  #favorite() {
    return this.#change({ favorite: !this.item.favorite });
  }

  #drawRegion() {
    if (this.#stopDrawing) return;
    this.#zoom.by(0);
    this.frame.parentElement.scrollIntoView({ block: "nearest" });
    const { item } = this;
    const stop = drawRegion(this.frame, {
      start: null,
      action: t("Search this region"),
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
    const { collection } = this.store.state;
    const gone = (ids) => {
      if (this.store.state.item === item.id) this.store.set({ item: "" });
      this.onDeleted(ids);
    };
    if (!isTrashed(item)) {
      await moveToTrash([item.id], collection, gone);
      return;
    }
    if (!(await confirmDeletion(labelOf(item), [item])) || !(await writeItems([item.id], collection, api.remove))) return;
    gone([item.id]);
    toast(t("{images} deleted", { images: count(1, "image") }));
  }

  async #restore() {
    const { id } = this.item;
    const body = (part) => api.change({ ...part, trashed: false });
    if (!(await writeItems([id], this.store.state.collection, body))) return;
    this.store.set({ item: "" });
    this.onDeleted([id]);
    toast(t("{images} restored", { images: count(1, "image") }));
  }

  #captions() {
    const { item } = this;
    const generated = h("div", { class: "generated" });
    const explains = this.can("explain");
    const write = button(t("Describe this image"), "write", async () => {
      write.disabled = true;
      write.classList.add("busy");
      try {
        const { collection } = this.store.state;
        const answer = await api.caption({ id: item.id, attention: explains, ...(collection && { collection }) });
        if (this.item?.id === item.id) this.#showCaption(generated, answer);
      } catch (error) {
        report(error);
      } finally {
        write.disabled = false;
        write.classList.remove("busy");
      }
    }, {
      text: true,
      title: t(explains ? "Generate a caption, and show where the model looks at each word" : "Generate a caption"),
    });
    const sources = { given: "Caption given with the image", model: "Caption generated" };
    const captions = item.captions?.length ? item.captions : [item.caption].filter(Boolean);
    return h(
      "section",
      { class: "item-section", "aria-label": t("Captions") },
      !captions.length && h("p", { class: "hint" }, t("No caption")),
      captions.length > 1 && h(
        "ul", { class: "item-captions", role: "list" },
        ...captions.slice(1).map((caption) => h("li", {}, caption)),
      ),
      sources[item.caption_source] && h("p", { class: "hint" }, t(sources[item.caption_source])),
      this.can("caption") && write,
      generated,
    );
  }

  #showCaption(root, { captions, attention, attention_region: region }) {
    const [best] = captions;
    const save = button(t("Use as caption"), "check", () => this.#change({ caption: best.text }, t("The caption is saved")), {
      text: true,
    });
    const shown = attention?.length
      ? [
        attentionWords(this.frame, attention, region),
        h("p", { class: "hint" }, t("Point at a word to see where the model looks.")),
      ]
      : [h("p", { class: "item-caption" }, best?.text || t("The model wrote no caption."))];
    root.replaceChildren(...shown);
    if (this.writable() && best?.text && best.text !== this.item.caption) root.append(save);
    announce(t("Generated caption: {caption}", { caption: best?.text ?? t("none") }));
  }

  async #change(changes, message) {
    const { item } = this;
    const { collection } = this.store.state;
    if (!(await writeItems([item.id], collection, (part) => api.change({ ...part, ...changes })))) return;
    try {
      Object.assign(item, await api.item(item.id, collection));
    } catch (error) {
      report(error);
      return;
    }
    if (message) toast(message);
    this.wall.redraw(item.id);
    this.onChanged([item.id]);
    if (this.item?.id !== item.id) return;
    const focused = document.activeElement?.getAttribute?.("aria-label");
    this.#draw();
    [...this.view.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === focused)?.focus();
  }

  /** Build the section of tags or albums: each can be searched and removed, and more be added. */
  #names(title, names, field) {
    const writable = this.writable();
    const search = (name) => () => {
      const { tags, values } = this.store.state;
      if (field === "tags") this.store.set({ tags: [...new Set([...tags, name])], item: "" });
      else this.store.set({ values: { ...values, "metadata.albums": [name] }, item: "" });
    };
    const shown = names.map((name) =>
      h(
        "li",
        { class: "tag" },
        h("button", {
          type: "button", class: "tag-name", title: t("Show images with {name}", { name }), on: { click: search(name) },
        }, name),
        writable && button(t("Remove {name}", { name }), "close", () => this.#change({ [`remove_${field}`]: [name] }), {
          class: "tag-remove",
        }),
      ),
    );
    const label = t(field === "tags" ? "Add a tag" : "Add to an album");
    const input = h("input", {
      class: "field field-small", "aria-label": label, placeholder: label, maxlength: "170", autocomplete: "off",
    });
    const submit = async (event) => {
      event.preventDefault();
      const name = input.value.trim();
      if (name) await this.#change({ [`add_${field}`]: [name] });
    };
    if (!names.length && !writable) return null;
    return h(
      "section",
      { class: "item-section", "aria-labelledby": `item-${field}` },
      h("h3", { id: `item-${field}` }, title),
      names.length > 0 && h("ul", { class: "tags", role: "list" }, ...shown),
      writable && h("form", { class: "tag-form", on: { submit } }, input),
    );
  }

  #details() {
    const { item } = this;
    const { latitude, longitude } = item.metadata;
    const rows = [
      [t("Name"), item.name],
      [t("Folder"), item.album],
      [t(DATES[item.date_source] ?? "Date"), item.time ? date(item.time) : ""],
      [t("Size"), item.width ? t("{width} × {height} pixels", item) : ""],
      [t("Exposure"), exposureOf(item.metadata)],
      [t("Coordinates"), typeof latitude === "number" ? `${latitude.toFixed(4)}, ${longitude?.toFixed(4)}` : ""],
      [t("File"), item.path],
      ["Id", item.id],
      ...scoresOf(item),
      ...Object.entries(item.metadata)
        .filter(([key]) => !SHOWN.has(key))
        .map(([key, value]) => [titleOf(key), shownValue(value)]),
    ].filter(([, value]) => value);
    const link = h("a", { href: urlOf(item.original), target: "_blank", rel: "noopener" }, t("Open the original"));
    return h(
      "section",
      { class: "item-section", "aria-labelledby": "item-details" },
      h("h3", { id: "item-details" }, t("Details")),
      h("dl", { class: "details" }, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, linked(value))])),
      h("p", {}, link),
    );
  }
}
