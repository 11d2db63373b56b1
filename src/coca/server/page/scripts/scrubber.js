// Scrubber of a timeline: the years of a long list next to it, and the month under the pointer.

import { h, perFrame } from "./dom.js";

const MIN_SECTIONS = 3;
const MIN_SCREENS = 3;
const MIN_GAP = 20;
const SHOWN_MS = 1500;

/** Shows the years of a wall's sections at the right edge; a click or a drag scrolls to a place. */
export class Scrubber {
  constructor(wall) {
    this.wall = wall;
    this.bubble = h("span", { class: "scrubber-bubble", hidden: true });
    this.root = h("div", { class: "scrubber", "aria-hidden": "true", hidden: true });
    this.root.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.root.setPointerCapture(event.pointerId);
      this.#scroll(event);
    });
    this.root.addEventListener("pointermove", (event) => {
      if (this.root.hasPointerCapture(event.pointerId)) this.#scroll(event);
      else this.#show(this.#shareOf(event));
    });
    this.root.addEventListener("pointerleave", () => (this.bubble.hidden = true));
    document.body.append(this.root);
    this.draw = perFrame(() => this.#draw());
    addEventListener("resize", this.draw);
    // Where nothing hovers, it is there while the page scrolls, and else covers no image.
    let timer = 0;
    addEventListener("scroll", () => {
      this.root.classList.add("scrolling");
      clearTimeout(timer);
      timer = setTimeout(() => this.root.classList.remove("scrolling"), SHOWN_MS);
    }, { passive: true });
  }

  #draw() {
    const { blocks } = this.wall;
    const long = blocks.height > MIN_SCREENS * innerHeight;
    this.root.hidden = !long || blocks.sections.length < MIN_SECTIONS;
    if (this.root.hidden) return;
    const { height } = this.root.getBoundingClientRect();
    const labels = [];
    let [year, lowest] = [null, -Infinity];
    for (const section of blocks.sections) {
      const y = ((blocks.headingAt(section) ?? 0) / blocks.height) * height;
      if (section.year === year || y - lowest < MIN_GAP) continue;
      const label = h("span", { class: "scrubber-year" }, section.year || "…");
      label.style.top = `${y}px`;
      labels.push(label);
      [year, lowest] = [section.year, y];
    }
    this.root.replaceChildren(...labels, this.bubble);
  }

  #shareOf({ clientY }) {
    const { top, height } = this.root.getBoundingClientRect();
    return Math.min(1, Math.max(0, (clientY - top) / height));
  }

  #scroll(event) {
    const share = this.#shareOf(event);
    const top = this.wall.root.getBoundingClientRect().top + scrollY;
    const above = document.querySelector(".header").offsetHeight;
    scrollTo(0, top - above + share * this.wall.blocks.height);
    this.#show(share);
  }

  #show(share) {
    const { blocks } = this.wall;
    const y = share * blocks.height;
    const section = blocks.sections.findLast((one) => (blocks.headingAt(one) ?? Infinity) <= y) ?? blocks.sections[0];
    this.bubble.hidden = !section;
    this.bubble.textContent = section?.title ?? "";
    this.bubble.style.top = `${share * 100}%`;
  }
}
