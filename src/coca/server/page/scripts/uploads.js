// Uploads with progress, and jobs that index folders of the service's machine.

import { ApiError, api, hasRoute, upload } from "./api.js";
import { $, button, h, shorten } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { raw } from "./images.js";
import { count, t } from "./language.js";
import { announce, report, toast } from "./notices.js";

const AT_ONCE = 2;
const POLL_MS = 700;
const BUSY = new Set([429, 503]);
const WAIT_MS = 1500;

export class Uploads {
  #queue = [];
  #running = 0;
  #stop = new AbortController();
  #done = 0;
  #failed = 0;
  #polling = false;

  /** `options`: `store`, `can(capability)`, `addressOf(item)`, `onAdded()`. */
  constructor(root, options) {
    this.root = root;
    Object.assign(this, options);
    this.title = h("h2", {}, t("Uploads"));
    this.list = h("ul", { class: "upload-list", role: "list" });
    this.closeButton = button(t("Close"), "close", () => this.#close());
    root.append(h("div", { class: "uploads-head" }, this.title, this.closeButton), this.list);
  }

  /** Add files to the collection. */
  add(files) {
    if (!files.length) return;
    this.root.hidden = false;
    for (const file of files) {
      const bar = h("progress", { max: 1, value: 0, "aria-label": t("Upload of {name}", { name: file.name }) });
      const note = h("span", { class: "hint" }, t("waiting"));
      const row = h("li", {}, h("span", { class: "upload-name", title: file.name }, shorten(file.name, 44)), note, bar);
      this.list.append(row);
      this.#queue.push({ file, bar, note, row });
    }
    while (this.#running < AT_ONCE && this.#queue.length) this.#next();
  }

  async #next() {
    const job = this.#queue.shift();
    if (!job) return;
    this.#running += 1;
    this.#count();
    try {
      const item = await this.#send(job);
      this.#done += 1;
      const open = (event) => {
        event.preventDefault();
        this.store.set({ item: item.id });
      };
      const link = h("a", { href: this.addressOf(item), on: { click: open } }, shorten(job.file.name, 44));
      $(".upload-name", job.row).replaceChildren(link);
      job.row.classList.add("upload-done");
      job.note.textContent = t("added");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#failed += 1;
      job.row.classList.add("upload-failed");
      job.note.textContent = error.message;
    } finally {
      job.bar.value = 1;
      this.#running -= 1;
      this.#count();
      if (!this.#running && !this.#queue.length) this.#finished();
    }
    this.#next();
  }

  async #send({ file, bar, note }) {
    const { collection } = this.store.state;
    const body = { image: await raw(file), name: file.name, generate_caption: this.can("caption") };
    if (collection) body.collection = collection;
    const onProgress = (part) => {
      bar.value = part * 0.9;
      note.textContent = part < 1 ? `${Math.round(part * 100)} %` : t("indexing");
    };
    for (;;) {
      try {
        return await upload(body, { onProgress, signal: this.#stop.signal });
      } catch (error) {
        if (!(error instanceof ApiError) || !BUSY.has(error.status)) throw error;
        note.textContent = t("the service is busy; waiting");
        await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
      }
    }
  }

  #count() {
    const left = this.#running + this.#queue.length;
    this.title.textContent = left
      ? t("Adding {images}", { images: count(left, "image") })
      : t("{images} added", { images: count(this.#done, "image") });
    if (this.#failed) this.title.textContent += t(", {number} failed", { number: this.#failed });
  }

  #finished() {
    announce(this.title.textContent);
    if (this.#done) this.onAdded();
  }

  #close() {
    this.#queue = [];
    this.#stop.abort();
    this.#stop = new AbortController();
    this.#done = 0;
    this.#failed = 0;
    this.list.replaceChildren();
    this.root.hidden = true;
  }

  /** Open the dialog that adds images: files of the reader, or a folder of the service's machine. */
  open(pickFiles) {
    const folder = h("input", {
      class: "field", id: "job-folder", placeholder: "/photos/2024", autocomplete: "off", spellcheck: "false",
    });
    const list = h("ul", { class: "jobs", role: "list", "aria-label": t("Jobs") });
    const start = async (event) => {
      event.preventDefault();
      const uri = folder.value.trim();
      if (!uri) return;
      const { collection } = this.store.state;
      try {
        await api.startJob({ uris: [uri], ...(collection && { collection }) });
        folder.value = "";
        this.#poll(list);
      } catch (error) {
        report(error);
      }
    };
    const content = h(
      "div",
      {},
      button(t("Choose images…"), "upload", () => {
        dialog.close();
        pickFiles();
      }, { text: true, class: "button-primary button-wide", autofocus: true }),
      h("p", { class: "hint" }, t("Or drop images anywhere on the page.")),
      hasRoute("post", "/v1/jobs") && h(
        "form",
        { class: "job-form", on: { submit: start } },
        h("label", { class: "field-label", for: "job-folder" }, t("Add a folder on the server")),
        h("div", { class: "filter-form" }, folder, button(t("Add"), null, () => {}, { text: true, type: "submit" })),
      ),
      list,
    );
    const dialog = openDialog(t("Add images"), content);
    if (hasRoute("get", "/v1/jobs")) this.#poll(list);
  }

  async #poll(list) {
    if (this.#polling) return;
    this.#polling = true;
    const running = new Set();
    try {
      while (list.isConnected) {
        const { jobs } = await api.jobs();
        list.replaceChildren(...jobs.slice(0, 5).map((job) => this.#job(job)));
        const active = jobs.filter(({ state }) => state === "queued" || state === "running");
        const ended = jobs.filter(({ id, state }) => running.has(id) && !["queued", "running"].includes(state));
        if (ended.length) {
          toast(ended[0].state === "done" ? t("The folder is indexed") : t("The job ended: {state}", { state: t(ended[0].state) }));
          this.onAdded();
        }
        running.clear();
        for (const { id } of active) running.add(id);
        if (!active.length) break;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    } catch (error) {
      report(error);
    } finally {
      this.#polling = false;
    }
  }

  #job(job) {
    const active = job.state === "queued" || job.state === "running";
    const text = job.error ?? (job.total
      ? t("{state}: {done} of {all}", { state: t(job.state), done: job.done, all: job.total })
      : t(job.state));
    const bar = h("progress", { max: job.total || 1, value: job.total ? job.done : null, "aria-label": t("Progress") });
    return h(
      "li",
      {},
      h("span", {}, job.step || job.kind),
      h("span", { class: "hint" }, text),
      active && bar,
      active && button(t("Cancel the job"), "close", () => api.cancelJob(job.id).catch(report)),
    );
  }
}
