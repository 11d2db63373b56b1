// Swipes of one finger.

/** Least length of a swipe, in CSS pixels. */
const LEAST = 70;

/**
 * Call an action after a swipe over an element, which follows a finger that moves down.
 * @param {HTMLElement} element
 * @param {{may: () => boolean, left: () => void, right: () => void, down: () => void}} actions
 *   `may` is asked when a finger touches the element
 */
export function listenToSwipes(element, { may, left, right, down }) {
  /** @type {Touch | null} */
  let start = null;
  const moved = (/** @type {TouchEvent} */ { changedTouches: [touch] }) =>
    (start ? [touch.clientX - start.clientX, touch.clientY - start.clientY] : [0, 0]);
  element.addEventListener("touchstart", ({ touches }) => {
    start = touches.length === 1 && may() ? touches[0] : null;
  }, { passive: true });
  element.addEventListener("touchmove", (event) => {
    const [x, y] = moved(event);
    element.style.translate = y > Math.abs(x) ? `0 ${y}px` : "";
  }, { passive: true });
  for (const name of ["touchend", "touchcancel"]) {
    element.addEventListener(name, (/** @type {TouchEvent} */ event) => {
      const [x, y] = moved(event);
      start = null;
      element.style.translate = "";
      if (name === "touchcancel") return;
      if (Math.abs(x) > Math.max(LEAST, 2 * Math.abs(y))) (x < 0 ? left : right)();
      else if (y > Math.max(LEAST, 2 * Math.abs(x))) down();
    });
  }
}
