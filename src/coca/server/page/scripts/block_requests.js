// Requests of the blocks of a result that are near the viewport.

const MAX_REQUESTS = 3;
const RETRY_MS = 3000;

export class BlockRequests {
  onPage; onFailure; onEnd;
  /** Index of a block -> what ends its request. */
  #running = new Map();

  /** `options`: `onPage(at, page)`, `onFailure(error, at)` and `onEnd()`, after which more are near. */
  constructor(options) {
    Object.assign(this, options);
  }

  clear() {
    for (const request of this.#running.values()) request.abort();
    this.#running.clear();
  }

  /** Request the blocks of some indices that are not loaded, and end the requests of others. */
  start(near, blocks, source) {
    for (const [at, request] of this.#running) {
      if (near.has(at)) continue;
      request.abort();
      this.#running.delete(at);
    }
    for (const at of near) {
      if (this.#running.size >= MAX_REQUESTS) break;
      const block = blocks.blocks[at];
      if (block && !block.items && !this.#running.has(at)) this.#load(at, blocks.size, source);
    }
  }

  async #load(at, size, source) {
    const request = new AbortController();
    const { signal } = request;
    this.#running.set(at, request);
    try {
      const page = await source(at * size, size, signal);
      if (!signal.aborted) this.onPage(at, page);
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) {
        this.onFailure(error, at);
        // Further items are requested again, when the service may be back.
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
    if (this.#running.get(at) === request) this.#running.delete(at);
    if (!signal.aborted) this.onEnd();
  }
}
