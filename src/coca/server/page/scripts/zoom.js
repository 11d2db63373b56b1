// Zoom of an image: by the wheel, two fingers, a double click and keys; dragging moves it.

const MAX_SCALE = 8;
const DOUBLE = 2.5;
const STEP = 1.4;

/** Enlarges a frame within its stage. */
export class Zoom {
  #points = new Map();
  #moved = 0;

  /**
   * @param {HTMLElement} stage receives the pointers
   * @param {HTMLElement} frame is enlarged
   * @param {{enabled: function(): boolean, onFirst: function(), onSwipe: function(number)}} options
   *   `onFirst` is called when the frame is first enlarged; `onSwipe` with 1 or -1 for a swipe of
   *   one finger over a frame that is not
   */
  constructor(stage, frame, options) {
    Object.assign(this, { stage, frame, scale: 1, x: 0, y: 0 }, options);
    stage.addEventListener("wheel", (event) => {
      if (!this.enabled()) return;
      event.preventDefault();
      this.by(Math.exp(-event.deltaY / 400), event);
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => {
      if (this.enabled() && !event.target.closest("button")) this.by(this.scale > 1 ? 0 : DOUBLE, event);
    });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.#up(event));
  }

  /** Enlarge by a factor around a point of the window, by default the middle; 0 shows all again. */
  by(factor, point = null) {
    const scale = factor === 0 ? 1 : Math.min(MAX_SCALE, Math.max(1, this.scale * factor));
    if (scale > 1) this.onFirst();
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    const [dx, dy] = point ? [point.clientX - left - width / 2, point.clientY - top - height / 2] : [0, 0];
    this.x = dx - ((dx - this.x) * scale) / this.scale;
    this.y = dy - ((dy - this.y) * scale) / this.scale;
    this.scale = scale;
    this.#draw();
  }

  /** Zoom by a key; returns whether the key is one of them. */
  key(key) {
    const factor = { "+": STEP, "=": STEP, "-": 1 / STEP, 0: 0 }[key];
    if (factor === undefined) return false;
    this.by(factor);
    return true;
  }

  #draw() {
    const { frame, scale, stage } = this;
    const bound = (value, size, room) => {
      const most = Math.max(0, (size * scale - room) / 2);
      return Math.min(most, Math.max(-most, value));
    };
    this.x = bound(this.x, frame.offsetWidth, stage.clientWidth);
    this.y = bound(this.y, frame.offsetHeight, stage.clientHeight);
    frame.style.transform = scale > 1 ? `translate(${this.x}px, ${this.y}px) scale(${scale})` : "";
    stage.classList.toggle("zoomed", scale > 1);
  }

  #down(event) {
    if (!this.enabled() || event.button || event.target.closest("button")) return;
    if (!this.#points.size) this.#moved = 0;
    this.#points.set(event.pointerId, event);
    if (this.scale > 1) this.stage.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const before = this.#points.get(event.pointerId);
    if (!before) return;
    const [other] = [...this.#points.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    this.#points.set(event.pointerId, event);
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (other) {
      const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.by(distance(event) / Math.max(1, distance(before)), middle);
      this.#moved = NaN;
    } else if (this.scale > 1) {
      this.x += dx;
      this.y += dy;
      this.#draw();
      this.#moved = NaN;
    } else if (event.pointerType === "touch") this.#moved += Math.abs(dx) > Math.abs(dy) ? dx : 0;
  }

  #up(event) {
    this.#points.delete(event.pointerId);
    const swiped = event.type === "pointerup" && Math.abs(this.#moved) > 50;
    if (swiped) this.onSwipe(this.#moved < 0 ? 1 : -1);
    this.#moved = 0;
  }
}
