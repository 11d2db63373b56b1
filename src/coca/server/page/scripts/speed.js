// Speed of scrolling: images that pass by too fast to be seen are not requested.

const FAST = 8;
const PAUSE_MS = 200;

/** Knows whether the page scrolls faster than `FAST` viewports a second. */
export class ScrollSpeed {
  fast = false;
  #place = 0;
  #time = 0;
  #timer = 0;

  /** @param {function(): void} settled is called when a fast scroll has become slow */
  constructor(settled) {
    this.settled = settled;
  }

  /** Note where the page is, in each frame of a scroll. */
  note() {
    const now = performance.now();
    const passed = Math.abs(scrollY - this.#place) / innerHeight;
    const elapsed = now - this.#time;
    // A jump from rest is not a scroll: its images are wanted at once.
    const fast = elapsed < PAUSE_MS && passed > (FAST * elapsed) / 1000;
    [this.#place, this.#time] = [scrollY, now];
    if (fast) {
      this.fast = true;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#slow(), PAUSE_MS);
    }
  }

  #slow() {
    this.fast = false;
    this.settled();
  }
}
