// Bar of the selected images: tag, album, export and delete.

import { api } from "./api.js";
import { button, count, h } from "./dom.js";
import { confirmDeletion, openDialog, promptDialog } from "./dialogs.js";
import { jsonLines, saveBlob, zipOf } from "./files.js";
import { report, toast } from "./notices.js";

const MAX_IDS = 1000;

export class SelectionBar {
  /** `options`: `store`, `selection`, `writable()`, `terms`, `onChanged(ids)`, `onDeleted(ids)`. */
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
    const writes = this.writable()
      ? [
        button("Tag", "tag", () => this.#tag(), { text: true }),
        button("Album", "album", () => this.#album(), { text: true }),
      ]
      : [];
    this.root.replaceChildren(
      h("strong", { class: "selection-count", role: "status" }, `${count(size, "image")} selected`),
      button("More like these", "more", () => this.#moreLike(), { text: true }),
      ...writes,
      button("Export", "download", () => this.#export(), { text: true }),
      this.writable() && button("Delete", "trash", () => this.delete(), { text: true, class: "button-quiet-danger" }),
      button("Clear the selection", "close", () => this.selection.clear()),
    );
  }

  /** Delete the selected images after a confirmation. */
  async delete() {
    const name = count(this.selection.size, "image");
    if (!(await confirmDeletion(name, this.selection.items()))) return;
    const ids = this.selection.ids();
    await this.#inParts(ids, (part) => api.remove(part), () => {
      this.selection.remove(ids);
      this.onDeleted(ids);
      toast(`${name} deleted`);
    });
  }

  #moreLike() {
    const items = this.selection.items().slice(0, 16);
    const { terms } = this.store.state;
    const known = new Set(terms.map(({ kind, value }) => `${kind}:${value}`));
    const added = items.map((item) => this.terms.ofItem(item, 1)).filter((one) => !known.has(`id:${one.value}`));
    this.selection.clear();
    this.store.set({ terms: [...terms, ...added], view: "wall", item: "" });
  }

  async #tag() {
    const suggestions = [...new Set(this.selection.items().flatMap((item) => item.tags))];
    const text = await promptDialog("Tag the selected images", {
      label: "Tags", action: "Add tags", suggestions,
      hint: "Separate several tags by commas. A minus sign before a tag removes it.",
    });
    if (!text) return;
    const tags = text.split(",").map((tag) => tag.trim()).filter(Boolean);
    const removed = tags.filter((tag) => tag.startsWith("-")).map((tag) => tag.slice(1));
    const added = tags.filter((tag) => !tag.startsWith("-"));
    await this.#change({ add_tags: added, remove_tags: removed }, "Tags changed");
  }

  async #album() {
    const albums = [...new Set(this.selection.items().map((item) => item.album).filter(Boolean))];
    const album = await promptDialog("Move the selected images to an album", {
      label: "Album", action: "Move", suggestions: albums, hint: "An image is in one album: those of a folder leave its album. An empty name removes them.",
    });
    if (album !== null) await this.#change({ album }, "Album changed");
  }

  async #change(changes, message) {
    const ids = this.selection.ids();
    await this.#inParts(ids, (part) => api.change({ ...part, ...changes }), () => {
      toast(`${message}: ${count(ids.length, "image")}`);
      this.selection.clear();
      this.onChanged(ids);
    });
  }

  async #inParts(ids, write, done) {
    const { collection } = this.store.state;
    try {
      for (let at = 0; at < ids.length; at += MAX_IDS) {
        const body = { ids: ids.slice(at, at + MAX_IDS) };
        if (collection) body.collection = collection;
        await write(body);
      }
      done();
    } catch (error) {
      report(error);
    }
  }

  #export() {
    const items = this.selection.items();
    const note = h("p", { class: "hint", role: "status" });
    const asJson = button("Records as JSON lines", "download", () => {
      saveBlob(jsonLines(items), "images.jsonl");
      dialog.close();
    }, { text: true });
    const asZip = button("Images as ZIP", "download", async () => {
      asZip.disabled = true;
      try {
        const archive = await zipOf(items, (read) => {
          note.textContent = `${read} of ${items.length} images read`;
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
      h("p", { class: "dialog-text" }, "Save the records with captions, tags and metadata, or the original images."),
      h("div", { class: "dialog-actions" }, asJson, asZip),
      note,
    );
    const dialog = openDialog(`Export ${count(items.length, "image")}`, content);
  }
}
