// Stage of an opened item: its image, which Zoom enlarges, or its video.

import { openSession, urlOf } from "./api.js";
import { $, button, h } from "./dom.js";
import { t } from "./language.js";
import { toast } from "./notices.js";
import { showImage, thumbnailPath } from "./thumbnails.js";
import { labelOf } from "./tile.js";
import { Zoom } from "./zoom.js";

/** Sides of the image before the original is there, and in place of one that no browser shows. */
const [PREVIEW, LARGEST] = [1024, 2048];
const UNSHOWN = /\.(heic|heif|tiff?|dng|cr2|cr3|nef|arw|raf|orf|rw2|jxl|jp2)$/i;

export class Stage {
  #stop = new AbortController();

  constructor(item) {
    this.item = item;
    this.image = h("img", { class: "item-image", alt: labelOf(item), draggable: "false" });
    this.frame = h("div", { class: "item-frame" }, this.image);
    if (item.width && item.height) {
      this.image.classList.add("sized");
      this.frame.style.setProperty("--ratio", item.width / item.height);
      this.frame.style.setProperty("--pixels", item.width);
    }
    this.element = h("div", { class: "item-stage" },
      this.frame,
      h("p", { class: "item-missing-note" }),
      item.video && button(t("Play the video"), "play", () => this.play(), { class: "item-play" }),
    );
    this.image.addEventListener("load", () => this.element.classList.remove("item-missing"));
    showImage(this.image, thumbnailPath(item, PREVIEW), (status) => this.#explain(status));
    this.zoom = new Zoom(this.element, this.frame);
    if (Math.max(item.width, item.height) > PREVIEW) this.#showWhole();
  }

  /** Stop loading. */
  leave() {
    this.#stop.abort();
  }

  /** Show all pixels, after the preview. */
  async #showWhole() {
    const { signal } = this.#stop;
    const path = UNSHOWN.test(this.item.name) ? thumbnailPath(this.item, LARGEST) : this.item.original;
    const whole = new Image();
    signal.addEventListener("abort", () => whole.removeAttribute("src"));
    try {
      await openSession();
      whole.src = urlOf(path).href;
      await whole.decode();
    } catch {
      // The preview stays.
      return;
    }
    if (!signal.aborted) this.image.src = whole.src;
  }

  /** Play the video in place of its frame. */
  play() {
    const { item } = this;
    const video = h("video", {
      class: "item-image", controls: true, autoplay: true, playsinline: true, "aria-label": labelOf(item),
    });
    video.addEventListener("error", () => {
      this.frame.replaceChildren(this.image);
      toast(t("This browser cannot play the video."), { error: true });
    });
    video.src = urlOf(item.video).href;
    this.zoom.by(0);
    this.frame.replaceChildren(video);
    $(".item-play", this.element)?.remove();
  }

  /** Write why an image is not shown. */
  #explain(status) {
    const reasons = { 0: "The service does not answer", 200: "The image cannot be shown." };
    $(".item-missing-note", this.element).textContent = t(reasons[status] ?? "The image cannot be read any more.");
    this.element.classList.add("item-missing");
  }
}
