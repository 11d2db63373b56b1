// View of one item over the whole screen: its stage, a row of actions, and a panel of details.

import { change, hide, showAgain } from "./actions.js";
import { api } from "./api.js";
import { $, button, h, menu } from "./dom.js";
import { saveFile } from "./files.js";
import { buildPanel } from "./item_panel.js";
import { Stage } from "./item_stage.js";
import { letterOf } from "./keyboard.js";
import { t } from "./language.js";
import { announce, report } from "./notices.js";
import { showsDetails, toggleDetails } from "./preferences.js";
import { listenToSwipes } from "./swipe.js";
import { FAVOURITE, isFavourite, labelOf, nameOf, videoOf } from "./tile.js";
import { Why } from "./why.js";

export class ItemView {
  store; wall; terms; writable; onChanged; onGone;
  #request = null;
  /** @type {Stage | null} */
  #stage = null;
  #neighbours = "";

  /**
   * @param {object} options `store`, `wall`, `terms`, `writable()`, `onChanged(ids)` and
   *   `onGone(ids)`
   */
  constructor(options) {
    Object.assign(this, options);
    this.item = null;
    this.title = h("h2", { class: "item-title", id: "item-title" });
    this.bar = h("div", { class: "item-bar" });
    this.steps = [["left", t("Previous image"), -1], ["right", t("Next image"), 1]].map(([name, label, by]) =>
      button(label, name, () => this.#step(by), { class: `item-step item-${name}` }));
    this.why = new Why(this);
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
    this.dialog.scrollTop = 0;
    announce(labelOf(item));
  }

  /** Draw again when the wall has the opened item, or further neighbours of it. */
  found() {
    if (!this.item) return;
    const index = this.#index();
    if (index < 0 || this.#ids(index).join() === this.#neighbours) return;
    this.item = this.wall.item(this.wall.indexOf(this.item.id)) ?? this.item;
    this.#drawParts();
  }

  hide() {
    if (this.dialog.open) this.dialog.close();
  }

  /** Index of the opened item in the wall, of a frame that of its video; -1 where it has none. */
  #index() {
    const { item, wall } = this;
    const index = wall.indexOf(item.id);
    const { at } = this.store.state;
    return index < 0 && item.video && videoOf(wall.item(at)) === videoOf(item) ? at : index;
  }

  /** Ids of the item before that of an index and of the one after it; null where there is none. */
  #ids(index) {
    return [-1, 1].map((step) => (index < 0 ? null : this.wall.item(index + step)?.id ?? null));
  }

  #closed() {
    const index = this.item ? this.#index() : -1;
    this.item = null;
    this.#stage?.leave();
    this.why.hide();
    this.view.replaceChildren();
    if (this.store.state.item) this.store.set({ item: "" });
    if (index >= 0) this.wall.focus(index);
  }

  #key(event) {
    if (event.target.matches("input, textarea, video") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const actions = {
      x: () => this.wall.select(this.item, false),
      l: () => this.writable() && this.#favourite(),
      i: () => this.#toggleDetails(),
    };
    const letter = letterOf(event);
    if (step) this.#step(step);
    else if (letter in actions) actions[letter]();
    else if (!this.#stage?.zoom.key(event.key)) return;
    event.preventDefault();
  }

  /** Show the next image (1) or the one before (-1). */
  #step(step) {
    const index = this.#index();
    const next = index < 0 ? null : this.wall.item(index + step);
    if (next) this.store.set({ item: next.id, at: index + step }, { replace: true });
  }

  #draw() {
    this.#stage?.leave();
    const stage = new Stage(this.item);
    this.#stage = stage;
    listenToSwipes(stage.element, {
      may: () => stage.zoom.scale === 1 && this.dialog.scrollTop <= 0 && (visualViewport?.scale ?? 1) === 1,
      left: () => this.#step(1),
      right: () => this.#step(-1),
      down: () => this.dialog.close(),
    });
    this.#drawParts();
  }

  /** Draw all but the stage. */
  #drawParts() {
    const { item } = this;
    const labelOfPart = (one) => one?.dataset?.word ?? one?.getAttribute?.("aria-label") ?? one?.textContent;
    const focused = this.dialog.open && labelOfPart(document.activeElement);
    const ids = this.#ids(this.#index());
    this.#neighbours = ids.join();
    this.steps.forEach((one, at) => (one.disabled = ids[at] === null));
    this.title.textContent = nameOf(item);
    this.bar.replaceChildren(...this.#actions().filter(Boolean));
    this.#stage.element.append(...this.steps, this.title, this.why.chips);
    this.view.replaceChildren(this.bar, this.#stage.element, buildPanel(this));
    this.why.show();
    if (!this.dialog.open) return;
    // Without a focus inside, the keys of the view would be lost.
    const again = [...this.view.querySelectorAll("button:not(:disabled), input, textarea")].find((one) => labelOfPart(one) === focused);
    (again ?? $(".item-close", this.bar)).focus();
  }

  #actions() {
    const { item, terms } = this;
    const query = (sign) => () => terms.add(terms.ofItem(item, sign));
    const gone = (ids) => {
      if (this.store.state.item === item.id) this.store.set({ item: "" });
      this.onGone(ids);
    };
    const write = (action) => () => action([item.id], this.store.state.collection, gone);
    const favourite = this.writable() && button(t("Favourite"), "heart", () => this.#favourite(), {
      class: "mark-favourite", "aria-pressed": String(isFavourite(item)),
    });
    const [label, name, act] = item.hidden ? [t("Show again"), "undo", showAgain] : [t("Hide"), "hide", hide];
    return [
      button(t("Close"), "close", () => this.dialog.close(), { class: "item-close", autofocus: true }),
      button(t("Similar"), "similar", () => terms.similarTo(item), { text: true, class: "item-similar" }),
      favourite,
      button(t("Details"), "info", () => this.#toggleDetails(), {
        class: "item-details", "aria-pressed": String(showsDetails()),
      }),
      ...menu("item-menu",
        button(t("More like this"), "like", query(1), { text: true }),
        button(t("Less like this"), "unlike", query(-1), { text: true }),
        button(t("Download"), "download", () => saveFile(this.item), { text: true }),
        this.writable() && button(label, name, write(act), { text: true }),
      ),
    ];
  }

  /** Show or hide the panel; on a phone, which has it below the image, scroll to it or back. */
  #toggleDetails() {
    const panel = $(".item-panel", this.view);
    if (getComputedStyle(this.view).display === "block") {
      const top = this.dialog.scrollTop > 0 ? 0 : panel.offsetTop - this.bar.offsetHeight;
      this.dialog.scrollTo({ top, behavior: "smooth" });
    } else $(".item-details", this.bar).setAttribute("aria-pressed", String(toggleDetails()));
  }

  #favourite() {
    return this.change({ [isFavourite(this.item) ? "remove_tags" : "add_tags"]: [FAVOURITE] });
  }

  /** Change the item, and draw what depends on it again. */
  async change(changes) {
    const { item } = this;
    const { collection } = this.store.state;
    await change([item.id], collection, changes);
    // The reason may be what was changed.
    Object.assign(item, { reason: "" }, await api.item(item.id, collection));
    this.wall.redraw(item.id);
    this.onChanged([item.id]);
    if (this.item?.id === item.id) this.#drawParts();
  }
}
