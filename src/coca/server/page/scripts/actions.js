// Bar of the selected images: tag, album, export, trash and deletion.

import { api } from "./api.js";
import { button, h } from "./dom.js";
import { confirmDeletion, openDialog, promptDialog } from "./dialogs.js";
import { jsonLines, saveBlob, zipOf } from "./files.js";
import { count, t } from "./language.js";
import { report, toast } from "./notices.js";

const MAX_IDS = 1000;

/** Change or delete items in parts that the service takes; returns whether all were written. */
export async function writeItems(ids, collection, write) {
  try {
    for (let at = 0; at < ids.length; at += MAX_IDS) {
      await write({ ids: ids.slice(at, at + MAX_IDS), ...(collection && { collection }) });
    }
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/** Move items to the trash, with a way back; `onMoved(ids)` is called after both. */
export async function moveToTrash(ids, collection, onMoved) {
  const move = (trashed) => writeItems(ids, collection, (part) => api.change({ ...part, trashed }));
  if (!(await move(true))) return false;
  onMoved(ids);
  const undo = async () => {
    if (await move(false)) onMoved(ids);
  };
  toast(t("{images} moved to the trash", { images: count(ids.length, "image") }), { action: [t("Undo"), undo] });
  return true;
}

export class SelectionBar {
  /**
   * `options`: `store`, `wall`, `selection`, `writable()`, `terms`, `onChanged(ids)`,
   * `onDeleted(ids)`.
   */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
    this.selection.addEventListener("change", () => this.draw());
  }

  draw() {
    const { size } = this.selection;
    this.root.hidden = size === 0;
    document.body.classList.toggle("with-selection", size > 0);
    if (!size) return;
    const { trash } = this.store.state;
    const text = { text: true };
    const danger = { text: true, class: "button-quiet-danger" };
    const all = this.wall.selectable;
    const items = this.selection.items();
    const favorite = !items.every((item) => item.favorite);
    const writes = !this.writable() ? [] : trash
      ? [
        button(t("Restore"), "undo", () => this.#restore(), text),
        button(t("Delete forever"), "trash", () => this.delete(), danger),
      ]
      : [
        button(t("Tag"), "tag", () => this.#tag(), text),
        button(t("Album"), "album", () => this.#album(), text),
        button(t(favorite ? "Favorite" : "No favorite"), "heart", () => this.#change({ favorite }), text),
        button(t("Delete"), "trash", () => this.delete(), danger),
      ];
    const parts = [
      h("strong", { class: "selection-count", role: "status" }, t("{images} selected", { images: count(size, "image") })),
      all > size && button(t("Select all {images}", { images: count(all, "image") }), null, () => this.#all(), text),
      !trash && button(t("More like these"), "more", () => this.#moreLike(), text),
      ...writes,
      button(t("Export"), "download", () => this.#export(), text),
      button(t("Clear the selection"), "close", () => this.selection.clear()),
    ];
    this.root.replaceChildren(...parts.filter(Boolean));
  }

  /** Move the selected images to the trash, or delete those in the trash after a confirmation. */
  async delete() {
    const [items, ids, { collection, trash }] = [this.selection.items(), this.selection.ids(), this.store.state];
    const done = () => {
      this.selection.remove(ids);
      this.onDeleted(ids);
    };
    if (!trash) {
      await moveToTrash(ids, collection, done);
      return;
    }
    const name = count(ids.length, "image");
    if (!(await confirmDeletion(name, items)) || !(await writeItems(ids, collection, api.remove))) return;
    done();
    toast(t("{images} deleted", { images: name }));
  }

  async #restore() {
    const [ids, { collection }] = [this.selection.ids(), this.store.state];
    if (!(await writeItems(ids, collection, (part) => api.change({ ...part, trashed: false })))) return;
    this.selection.remove(ids);
    this.onDeleted(ids);
    toast(t("{images} restored", { images: count(ids.length, "image") }));
  }

  async #all() {
    try {
      await this.wall.selectAll();
    } catch (error) {
      report(error);
    }
  }

  #moreLike() {
    const items = this.selection.items().slice(0, 16);
    const { terms } = this.store.state;
    const known = new Set(terms.map(({ kind, value }) => `${kind}:${value}`));
    const added = items.map((item) => this.terms.ofItem(item, 1)).filter((one) => !known.has(`id:${one.value}`));
    this.selection.clear();
    this.store.set({ terms: [...terms, ...added], view: "wall", item: "" });
  }

  #tag() {
    return this.#names("tags", t("Tag the selected images"), {
      label: t("Tags"), action: t("Add tags"),
      hint: t("Separate several tags by commas. A minus sign before a tag removes it."),
    });
  }

  #album() {
    return this.#names("albums", t("Add the selected images to albums"), {
      label: t("Albums"), action: t("Add"),
      hint: t("Separate several albums by commas. A minus sign before an album removes the images from it."),
    });
  }

  /** Ask for names to add; a minus sign removes one. */
  async #names(field, title, options) {
    const suggestions = [...new Set(this.selection.items().flatMap((item) => item[field]))];
    const names = ((await promptDialog(title, { ...options, suggestions })) || "").split(",").map((name) => name.trim()).filter(Boolean);
    const removed = names.filter((name) => name.startsWith("-")).map((name) => name.slice(1).trim()).filter(Boolean);
    const added = names.filter((name) => !name.startsWith("-"));
    if (names.length) await this.#change({ [`add_${field}`]: added, [`remove_${field}`]: removed });
  }

  async #change(changes) {
    const [ids, { collection }] = [this.selection.ids(), this.store.state];
    if (!(await writeItems(ids, collection, (part) => api.change({ ...part, ...changes })))) return;
    toast(t("{images} changed", { images: count(ids.length, "image") }));
    this.selection.clear();
    this.onChanged(ids);
  }

  #export() {
    const items = this.selection.items();
    const note = h("p", { class: "hint", role: "status" });
    const asJson = button(t("Records as JSON lines"), "download", () => {
      saveBlob(jsonLines(items), "images.jsonl");
      dialog.close();
    }, { text: true });
    const asZip = button(t("Images as ZIP"), "download", async () => {
      asZip.disabled = true;
      try {
        const archive = await zipOf(items, (read) => {
          note.textContent = t("{read} of {all} images read", { read, all: items.length });
        });
        saveBlob(archive, "images.zip");
        dialog.close();
      } catch (error) {
        asZip.disabled = false;
        report(error);
      }
    }, { text: true });
    const content = h(
      "div",
      {},
      h("p", { class: "dialog-text" }, t("Save the records with captions, tags and metadata, or the original images.")),
      h("div", { class: "dialog-actions" }, asJson, asZip),
      note,
    );
    const dialog = openDialog(t("Export {images}", { images: count(items.length, "image") }), content);
  }
}
