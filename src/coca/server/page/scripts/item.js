// View of one item: image, captions, tags and metadata.

import { change, hide, showAgain } from "./actions.js";
import { api, urlOf } from "./api.js";
import { captionSection, textsSection } from "./correct.js";
import { $, button, h } from "./dom.js";
import { saveBlob } from "./files.js";
import { TECHNICAL, titleOf, valueName } from "./filters.js";
import { date, t } from "./language.js";
import { announce, report } from "./notices.js";
import { showImage, thumbnailPath } from "./thumbnails.js";
import { FAVOURITE, isFavourite, labelOf, rankOf } from "./tile.js";
import { Zoom } from "./zoom.js";

const RETRY_MS = 3000;
/** Kind of an item's date -> its name. */
const DATES = { taken: "Taken", file: "File date", added: "Added" };
/** Metadata that the view shows elsewhere. */
const SHOWN = new Set(["captions", "name", "people", ...TECHNICAL]);

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

export class ItemView {
  #request = null;
  #zoom = null;

  /**
   * @param {object} options `store`, `wall`, `terms`, `writable()`, `onChanged(ids)` and
   *   `onGone(ids)`
   */
  constructor(options) {
    Object.assign(this, options);
    this.item = null;
    this.view = h("div", { class: "item-view", tabindex: "-1" });
    this.dialog = h("dialog", { class: "item", "aria-labelledby": "item-title" }, this.view);
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
        // That of the wall, which may have it by now, has a rank.
        item = this.wall.item(this.wall.indexOf(id)) ?? item;
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
    if (!this.item) return;
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
    const index = this.item ? this.wall.indexOf(this.item.id) : -1;
    this.item = null;
    if (this.store.state.item) this.store.set({ item: "" });
    if (index >= 0) this.wall.focus(index);
  }

  #key(event) {
    if (event.target.matches("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const actions = {
      x: () => this.wall.select(this.item, false),
      l: () => this.writable() && this.#favourite(),
    };
    if (step) this.#step(step);
    else if (event.key in actions) actions[event.key]();
    else if (!this.#zoom?.key(event.key)) return;
    event.preventDefault();
  }

  /** Show the next image (1) or the one before (-1). */
  #step(step) {
    const index = this.wall.indexOf(this.item.id);
    const next = index < 0 ? null : this.wall.item(index + step);
    if (next) this.store.set({ item: next.id, at: index + step }, { replace: true });
  }

  #draw() {
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
      this.#actions(),
      captionSection(this.item, this.#writer()),
      this.#tags(),
      this.#people(),
      this.#details(),
    );
    this.view.replaceChildren(this.#stage(), panel);
    panel.scrollTop = 0;
    // Without a focus inside, the keys of the view would be lost.
    if (this.dialog.open && !this.dialog.contains(document.activeElement)) $(".item-head button", panel).focus();
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
    const frame = h("div", { class: "item-frame" }, image);
    if (item.width && item.height) {
      image.classList.add("sized");
      frame.style.setProperty("--ratio", item.width / item.height);
      frame.style.setProperty("--pixels", Math.min(item.width, 1024));
    }
    const step = (label, iconName, by, enabled) =>
      button(label, iconName, () => this.#step(by), { class: `item-${iconName}`, disabled: !enabled });
    const stage = h(
      "div",
      { class: "item-stage" },
      frame,
      h("p", { class: "item-missing-note" }),
      step(t("Previous image"), "left", -1, index > 0),
      step(t("Next image"), "right", 1, index >= 0 && this.wall.item(index + 1)),
    );
    this.#zoom = new Zoom(stage, frame, () => {
      // The thumbnail has few pixels; an image that no browser shows stays a thumbnail.
      const isLarge = item.width > 1024 || item.height > 1024;
      if (isLarge && image.dataset.path !== item.original) showImage(image, item.original);
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
    const gone = (ids) => {
      if (this.store.state.item === item.id) this.store.set({ item: "" });
      this.onGone(ids);
    };
    const write = (action) => () => action([item.id], this.store.state.collection, gone);
    const text = { text: true };
    return h(
      "div",
      { class: "item-actions" },
      button(t("Similar"), "similar", () => terms.similarTo(item), { text: true, class: "button-primary" }),
      button(t("Download"), "download", () => this.#download(), text),
      this.writable() && button(t("Favourite"), "heart", () => this.#favourite(), {
        text: true, class: "mark-favourite", "aria-pressed": String(isFavourite(item)),
      }),
      button(t("More like this"), "more", query(1), text),
      button(t("Less like this"), "less", query(-1), text),
      this.writable() && (item.hidden
        ? button(t("Show again"), "undo", write(showAgain), text)
        : button(t("Hide"), "hide", write(hide), text)),
    );
  }

  #favourite() {
    return this.#change({ [isFavourite(this.item) ? "remove_tags" : "add_tags"]: [FAVOURITE] });
  }

  async #download() {
    try {
      saveBlob(await api.blob(this.item.original), this.item.name || this.item.id);
    } catch (error) {
      report(error);
    }
  }

  async #change(changes) {
    const { item } = this;
    const { collection } = this.store.state;
    if (!(await change([item.id], collection, changes))) return;
    try {
      Object.assign(item, await api.item(item.id, collection));
    } catch (error) {
      report(error);
      return;
    }
    this.wall.redraw(item.id);
    this.onChanged([item.id]);
    if (this.item?.id !== item.id) return;
    const nameOf = (one) => one?.getAttribute?.("aria-label") ?? one?.textContent;
    const focused = nameOf(document.activeElement);
    this.#draw();
    [...this.view.querySelectorAll("button, input, textarea")].find((one) => nameOf(one) === focused)?.focus();
  }

  #writer() {
    return this.writable() ? (changes) => this.#change(changes) : null;
  }

  #tags() {
    return textsSection(this.item, {
      title: t("Tags"), label: t("Add a tag"), field: "tags", texts: this.item.tags, change: this.#writer(),
      nameOf: (tag) => valueName("tags", tag),
      search: (tag) => this.store.set({ tags: [...new Set([...this.store.state.tags, tag])], item: "" }),
      add: (tag) => ({ add_tags: [tag] }),
      remove: (tag) => ({ remove_tags: [tag] }),
    });
  }

  #people() {
    const people = [this.item.metadata.people ?? []].flat();
    const write = (names) => ({ metadata: { people: names.length ? names : null } });
    return textsSection(this.item, {
      title: t("People"), label: t("Add a name"), field: "metadata.people", texts: people, change: this.#writer(),
      nameOf: (name) => name,
      search: null,
      add: (name) => write([...new Set([...people, name])]),
      remove: (name) => write(people.filter((one) => one !== name)),
    });
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
      [t("Copies"), item.copies > 1 ? item.copies : ""],
      ["Id", item.id],
      [t("Rank"), rankOf(item)?.toFixed(3)],
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
