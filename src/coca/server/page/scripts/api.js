// Client of the service's REST routes.

import { t } from "./language.js";

const KEY = "coca.key";

/** A response with an error status. */
class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Return an absolute URL of the service, also where the page is below a path of a proxy. */
export const urlOf = (path) => new URL(path.replace(/^\//, ""), document.baseURI);

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => {
    sessionStorage.setItem(KEY, value);
    session = null;
  },
};

/** Request of the cookie by which images, links and forms are answered, which send no key. */
let session = null;

/** Wait for the session of the key, if there is one; `stale` is a session that has ended. */
export function openSession(stale = null) {
  if (!apiKey.get()) return Promise.resolve();
  if (!session || session === stale) session = send("v1/session", { method: "POST" });
  return session;
}

const MAX_WAIT_S = 10;
const MAX_TRIES = 6;

let askForKey = async (/** @type {boolean} */ _refused) => false;
let asking = null;

/**
 * Register the function that asks for a key after status 401; it resolves to whether one is set.
 * Its argument is whether the service refused a key.
 */
export function onMissingKey(ask) {
  askForKey = ask;
}

// All requests that need a key wait for one dialog.
function askOnce(refused) {
  asking ??= askForKey(refused).finally(() => (asking = null));
  return asking;
}

function headers() {
  const key = apiKey.get();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function send(path, options = {}, tries = 1) {
  const key = apiKey.get();
  let response;
  try {
    response = await fetch(urlOf(path), {
      ...options,
      headers: { ...headers(), ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(t("The service does not answer. Is it still running?"), 0);
  }
  dispatchEvent(new Event("answered"));
  if (response.status === 401) {
    // Another request may have asked for a key meanwhile.
    if (apiKey.get() !== key || (await askOnce(Boolean(key)))) return send(path, options);
    throw new ApiError(t("The service answers only with a key."), 401);
  }
  const wait = Number(response.headers.get("Retry-After"));
  if (response.status === 429 && wait > 0 && wait <= MAX_WAIT_S && tries < MAX_TRIES) {
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    options.signal?.throwIfAborted();
    return send(path, options, tries + 1);
  }
  if (!response.ok) throw new ApiError(await messageOf(response), response.status);
  return response;
}

async function messageOf(response) {
  try {
    const body = await response.json();
    return sentence(body.error?.message ?? `status ${response.status}`);
  } catch {
    return t("The service answered with status {status}.", { status: response.status });
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

async function request(method, path, body, signal) {
  const options = { method, signal };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  return send(path, options);
}

const call = async (method, path, body, signal) => (await request(method, path, body, signal)).json();

const named = (collection) => (collection ? `?collection=${encodeURIComponent(collection)}` : "");
const searchPath = (name) => `v1/searches/${encodeURIComponent(name)}`;
const itemPath = (id) => `v1/items/${encodeURIComponent(id)}`;

export const api = {
  collections: () => call("GET", "v1/collections"),
  search: (body, signal) => call("POST", "v1/search", body, signal),
  explain: (body, signal) => call("POST", "v1/explain", body, signal),
  facets: (body, signal) => call("POST", "v1/facets", body, signal),
  duplicates: (body, signal) => call("POST", "v1/duplicates", body, signal),
  searches: (collection) => call("GET", "v1/searches" + named(collection)),
  saveSearch: (name, body) => call("PUT", searchPath(name), body),
  deleteSearch: (name, collection) => send(searchPath(name) + named(collection), { method: "DELETE" }),
  item: (id, collection, signal) =>
    call("GET", itemPath(id) + named(collection), undefined, signal),
  /** Add an image; resolves to its item, and whether the collection did not have it. */
  add: async (body, signal) => {
    const response = await request("POST", "v1/items", body, signal);
    return { item: await response.json(), isNew: response.status === 201 };
  },
  change: (body) => call("PATCH", "v1/items", body),
  /** Return the status of a file; 0 if the service does not answer. */
  statusOf: (path) => send(path).then((response) => response.body.cancel().then(() => response.status), ({ status }) => status),
};
