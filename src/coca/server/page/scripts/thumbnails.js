// Images of items as sources of <img>.

import { api, apiKey, openSession, urlOf } from "./api.js";

const SIDES = [128, 256, 512, 1024, 2048];
/** Interval in which a service that does not answer is asked again. */
const RETRY_MS = 3000;

/** Return the smallest offered side that covers `pixels` of the screen. */
export function sideFor(pixels) {
  const needed = pixels * Math.min(devicePixelRatio || 1, 2);
  return SIDES.find((side) => side >= needed) ?? SIDES.at(-1);
}

export const thumbnailPath = (item, side) => `${item.thumbnail}&side=${side}`;

/** Show an image of the service; `onFault(status)` is called if it cannot be shown. */
export async function showImage(img, path, onFault = (/** @type {number} */ _status) => {}) {
  const isWanted = () => img.dataset.path === path;
  let session = null;
  const show = async (stale) => {
    session = openSession(stale);
    await session.catch(() => {});
    if (isWanted()) img.src = urlOf(path);
  };
  let isNew = true;
  img.dataset.path = path;
  img.onerror = async () => {
    const status = await api.statusOf(path);
    if (!isWanted()) return;
    // The key is right, so its session has ended: the service was started again, for example.
    if (status === 200 && isNew && apiKey.get()) await show(session);
    else onFault(status);
    isNew = false;
    if (status === 0) setTimeout(() => img.isConnected && isWanted() && show(), RETRY_MS);
  };
  await show();
}

/** Stop loading an image. */
export function dropImage(img) {
  img.dataset.path = "";
  img.removeAttribute("src");
}
