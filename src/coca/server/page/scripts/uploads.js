// Uploads, with the state of each.

import { api } from "./api.js";
import { confirmDialog } from "./dialogs.js";
import { button, h, shorten } from "./dom.js";
import { raw } from "./images.js";
import { count, t } from "./language.js";
import { announce } from "./notices.js";

const AT_ONCE = 2;
const BUSY = new Set([429, 503]);
const WAIT_MS = 1500;

const ask = (event) => event.preventDefault();

export class Uploads {
  store; captions; addressOf; onAdded;
  #queue = [];
  #running = 0;
  #stop = new AbortController();
  #done = 0;
  /** Images that the collection had. */
  #known = 0;
  #failed = 0;

  /** `options`: `store`, `captions()`, whether the model writes them, `addressOf(item)`, `onAdded()`. */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
    this.title = h("h2", {});
    this.list = h("ul", { class: "upload-list", role: "list" });
    root.append(h("div", { class: "uploads-head" }, this.title, button(t("Close"), "close", () => this.#close())), this.list);
  }

  /** Add files to the collection. */
  add(files) {
    if (!files.length) return;
    this.root.hidden = false;
    for (const file of files) {
      const note = h("span", { class: "hint" }, t("waiting"));
      const name = h("span", { class: "upload-name", title: file.name }, shorten(file.name, 44));
      const row = h("li", {}, name, note);
      this.list.append(row);
      this.#queue.push({ file, name, note, row });
    }
    while (this.#running < AT_ONCE && this.#queue.length) this.#next();
  }

  async #next() {
    const job = this.#queue.shift();
    if (!job) return;
    this.#running += 1;
    this.#count();
    try {
      const { item, isNew } = await this.#send(job);
      if (isNew) this.#done += 1;
      else this.#known += 1;
      job.name.replaceChildren(h("a", { href: this.addressOf(item) }, shorten(job.file.name, 44)));
      job.row.classList.add("upload-done");
      job.note.textContent = t(isNew ? "added" : "there already");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#failed += 1;
      job.row.classList.add("upload-failed");
      job.note.textContent = error.message;
    } finally {
      this.#running -= 1;
      this.#count();
    }
    if (!this.#running && !this.#queue.length) {
      announce(this.title.textContent);
      if (this.#done + this.#known) this.onAdded();
    }
    this.#next();
  }

  async #send({ file, note }) {
    const { collection } = this.store.state;
    const body = { image: await raw(file), name: file.name, generate_caption: this.captions() };
    if (collection) body.collection = collection;
    for (;;) {
      note.textContent = t("indexing");
      try {
        return await api.add(body, this.#stop.signal);
      } catch (error) {
        if (!BUSY.has(error.status)) throw error;
        note.textContent = t("the service is busy; waiting");
        await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
      }
    }
  }

  get #left() {
    return this.#running + this.#queue.length;
  }

  #count() {
    const left = this.#left;
    // A browser asks before it closes a page that wants it.
    if (left) addEventListener("beforeunload", ask);
    else removeEventListener("beforeunload", ask);
    this.title.textContent = left
      ? t("Adding {images}", { images: count(left, "image") })
      : t("{images} added", { images: count(this.#done, "image") });
    if (this.#known) this.title.textContent += t(", {number} there already", { number: this.#known });
    if (this.#failed) this.title.textContent += t(", {number} failed", { number: this.#failed });
  }

  async #close() {
    const text = t("{images} are not added yet.", { images: count(this.#left, "image") });
    if (this.#left && !(await confirmDialog(t("Stop adding images?"), text, t("Stop")))) return;
    this.#queue = [];
    this.#stop.abort();
    this.#stop = new AbortController();
    [this.#done, this.#known, this.#failed] = [0, 0, 0];
    this.list.replaceChildren();
    this.root.hidden = true;
  }
}
