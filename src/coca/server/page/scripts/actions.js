// Bar of the selected images: tag, favourite, download and hide.

import { api } from "./api.js";
import { button, h } from "./dom.js";
import { confirmDialog, promptDialog } from "./dialogs.js";
import { saveArchive, saveFile } from "./files.js";
import { count, t } from "./language.js";
import { toast } from "./notices.js";
import { FAVOURITE, isFavourite } from "./tile.js";

const MAX_IDS = 1000;

/**
 * Change items in parts that the service takes. Tags and hiding are those of a whole video, and captions and
 * metadata those of a frame.
 */
export async function change(ids, collection, changes) {
  const videos = ["hidden", "add_tags", "remove_tags"].some((name) => name in changes);
  for (let at = 0; at < ids.length; at += MAX_IDS) {
    await api.change({ ids: ids.slice(at, at + MAX_IDS), ...(collection && { collection }), ...changes, videos });
  }
}

/** Hide items after a confirmation that lists `names`; `onDone(ids)` is called, also after an undo. */
export async function hide(ids, collection, onDone, names = []) {
  const images = count(ids.length, "image");
  const note = t("Searches no longer find what is hidden. No file is changed, and Hidden images shows it again.");
  const text = [note, ...names].join("\n");
  if (!(await confirmDialog(t("Hide {images}?", { images }), text, t("Hide")))) return;
  await change(ids, collection, { hidden: true });
  onDone(ids);
  toast(t("{images} hidden", { images }), { action: [t("Undo"), () => showAgain(ids, collection, onDone)] });
}

/** Show hidden items again; `onDone(ids)` is called. */
export async function showAgain(ids, collection, onDone) {
  await change(ids, collection, { hidden: false });
  onDone(ids);
  toast(t("{images} shown again", { images: count(ids.length, "image") }));
}

export class SelectionBar {
  store; wall; selection; terms; writable; onChanged; onGone;

  /**
   * `options`: `store`, `wall`, `selection`, `writable()`, `terms`, `onChanged(ids)`,
   * `onGone(ids)`.
   */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
    this.selection.addEventListener("change", () => this.draw());
    /** Shows the check boxes, over which no finger can hover. */
    this.toggle = button(t("Select"), null, () => {
      const isOn = document.body.classList.toggle("selecting");
      this.toggle.setAttribute("aria-pressed", String(isOn));
      if (!isOn) this.selection.clear();
    }, { text: true, class: "select-toggle", "aria-pressed": "false" });
  }

  draw() {
    const { size } = this.selection;
    this.root.hidden = size === 0;
    document.body.classList.toggle("with-selection", size > 0);
    if (!size) return;
    const { hidden } = this.store.state;
    const text = { text: true };
    const all = this.wall.selectable;
    const marked = this.selection.items().every(isFavourite);
    const mark = { [marked ? "remove_tags" : "add_tags"]: [FAVOURITE] };
    const writes = !this.writable() ? [] : hidden
      ? [button(t("Show again"), "undo", () => this.#showAgain(), text)]
      : [
        button(t("Tag"), "tag", () => this.#tag(), text),
        button(t(marked ? "No favourite" : "Favourite"), "heart", () => this.#change(mark), text),
        button(t("Hide"), "hide", () => this.hide(), text),
      ];
    const parts = [
      h("strong", { class: "selection-count", role: "status" }, t("{images} selected", { images: count(size, "image") })),
      all > size && button(t("Select all {images}", { images: count(all, "image") }), null, () => this.wall.selectAll(), { ...text, class: "selection-all" }),
      h("div", { class: "selection-actions" },
        !hidden && button(t("More like these"), "like", () => this.#moreLike(), text),
        ...writes,
        button(t("Download"), "download", () => this.#download(), text),
      ),
      button(t("Clear the selection"), "close", () => this.selection.clear()),
    ];
    this.root.replaceChildren(...parts.filter(Boolean));
  }

  hide() {
    return hide(this.selection.ids(), this.store.state.collection, this.onGone);
  }

  #showAgain() {
    return showAgain(this.selection.ids(), this.store.state.collection, this.onGone);
  }

  #moreLike() {
    const items = this.selection.items().slice(0, 16);
    const { terms } = this.store.state;
    const known = new Set(terms.map(({ kind, value }) => `${kind}:${value}`));
    const added = items.map((item) => this.terms.ofItem(item, 1)).filter((one) => !known.has(`id:${one.value}`));
    this.selection.clear();
    this.store.set({ terms: [...terms, ...added], view: "wall", item: "" });
  }

  /** Ask for tags to add; a minus sign removes one. */
  async #tag() {
    const given = await promptDialog(t("Tag the selected images"), {
      label: t("Tags"), action: t("Add tags"),
      hint: t("Separate several tags by commas. A minus sign before a tag removes it."),
    });
    const names = (given || "").split(",").map((name) => name.trim()).filter(Boolean);
    const removed = names.filter((name) => name.startsWith("-")).map((name) => name.slice(1).trim()).filter(Boolean);
    const added = names.filter((name) => !name.startsWith("-"));
    if (names.length) await this.#change({ add_tags: added, remove_tags: removed });
  }

  async #change(changes) {
    const ids = this.selection.ids();
    await change(ids, this.store.state.collection, changes);
    toast(t("{images} changed", { images: count(ids.length, "image") }));
    this.selection.clear();
    this.onChanged(ids);
  }

  /** Save the original image, or a ZIP archive of several. */
  #download() {
    const items = this.selection.items();
    return items.length === 1 ? saveFile(items[0]) : saveArchive(this.selection.ids(), this.store.state.collection);
  }
}
