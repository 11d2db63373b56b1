// Zoom of an image: by the wheel, a double click and keys; dragging moves it.

const MAX_SCALE = 8;
const DOUBLE = 2.5;
const STEP = 1.4;

/** Enlarges a frame within its stage. */
export class Zoom {
  stage; frame;
  /**
   * @param {HTMLElement} stage receives the pointers
   * @param {HTMLElement} frame is enlarged
   */
  constructor(stage, frame) {
    [this.stage, this.frame] = [stage, frame];
    [this.scale, this.x, this.y] = [1, 0, 0];
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY / 400), event);
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => {
      if (!(/** @type {Element} */ (event.target)).closest("button")) this.by(this.scale > 1 ? 0 : DOUBLE, event);
    });
    stage.addEventListener("pointerdown", (event) => {
      if (this.scale > 1 && !(/** @type {Element} */ (event.target)).closest("button")) stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      if (!stage.hasPointerCapture(event.pointerId)) return;
      this.x += event.movementX;
      this.y += event.movementY;
      this.#draw();
    });
  }

  /** Enlarge by a factor around a point of the window, by default the middle; 0 shows all again. */
  by(factor, point = null) {
    const scale = factor === 0 ? 1 : Math.min(MAX_SCALE, Math.max(1, this.scale * factor));
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
}
