// The page: joins state, search field, wall, filters, item view and uploads.

import { SelectionBar } from "./actions.js";
import { api, apiKey, hasRoute, onMissingKey, readRoutes } from "./api.js";
import { promptDialog } from "./dialogs.js";
import { $, button, count, h, number } from "./dom.js";
import { Duplicates } from "./duplicates.js";
import { Filters } from "./filters.js";
import { addImage, imageOf } from "./images.js";
import { ItemView } from "./item.js";
import { listenToKeys, showKeys } from "./keyboard.js";
import { faultOf, hideMessage, queryName, showMessage, showNoItems, showNote } from "./messages.js";
import { announce, report } from "./notices.js";
import { themeButton, tileSize, viewControls } from "./preferences.js";
import { Selection } from "./selection.js";
import { Store, emptyState, hasQuery, itself, queryOf, resultOf, scopeOf, toQuery } from "./state.js";
import { Terms, readTyped } from "./terms.js";
import { listenToTransfers } from "./transfer.js";
import { Uploads } from "./uploads.js";
import { Wall } from "./wall.js";

/** Ranked searches end here; lists of all items do not. */
const MAX_RANKED = 16_384;
/** Interval in which a service that does not answer is asked again. */
const RETRY_MS = 3000;

const store = new Store();
const selection = new Selection();
/** Whether the routes and the collections of the service are known. */
let connected = false;
let retry = 0;
let service = { collections: [], writable: false, capabilities: [] };

/** Return whether the model does more than search: "caption", "explain" or "answer". */
const can = (name) => service.capabilities.includes(name);
const writable = () => service.writable && hasRoute("patch", "/v1/items");
const canAdd = () => service.writable && hasRoute("post", "/v1/items");
const addressOf = (item, at = 0) => location.pathname + toQuery({ ...store.state, item: item.id, at });
const thumbnailOf = (id) => {
  const { collection } = store.state;
  return `/v1/items/${encodeURIComponent(id)}/thumbnail?side=128${collection ? `&collection=${encodeURIComponent(collection)}` : ""}`;
};

const search = $("#search-text");
const message = $("#message");
const summary = $("#summary");
const terms = new Terms($("#chips"), store, thumbnailOf);
const wall = new Wall($("#wall"), {
  addressOf,
  selection,
  size: tileSize,
  actions: {
    open: (item) => store.set({ item: item.id, at: wall.indexOf(item.id) }),
    similar: (item) => terms.similarTo(item),
    more: (item) => terms.add(terms.ofItem(item, 1)),
    less: (item) => terms.add(terms.ofItem(item, -1)),
  },
});
const filters = new Filters($("#filters"), $("#filters-toggle"), store);
const onDeleted = (ids) => {
  selection.remove(ids);
  refresh();
};
const onChanged = () => filters.load();
const parts = { store, wall, selection, terms, can, writable, addressOf, onChanged, onDeleted };
const itemView = new ItemView(parts);
const duplicates = new Duplicates($("#duplicates"), parts);
const bar = new SelectionBar($("#selection"), parts);
const uploads = new Uploads($("#uploads"), { store, can, addressOf, onAdded: () => refresh() });

/** Read the result, the counts and the collections again, after items were written. */
function refresh() {
  if (store.state.view === "wall") loadWall(wall.place ?? 0);
  filters.load();
  describeCollections().catch(report);
}

const scopeKey = (state) => JSON.stringify(scopeOf(state));

function loadWall(at = 0) {
  const { state } = store;
  clearTimeout(retry);
  const fault = faultOf(state, imageOf);
  if (fault) {
    wall.clear();
    summary.textContent = "";
    showMessage(message, ...fault);
    return;
  }
  const scope = scopeOf(state);
  const body = { ...scope, where: [...scope.where, ...itself(state)], ...queryOf(state, imageOf) };
  const ranked = hasQuery(state);
  document.body.classList.add("loading");
  const source = async (offset, limit, signal) => {
    if (ranked && offset >= MAX_RANKED) return { hits: [], total: offset };
    const size = ranked ? Math.min(limit, MAX_RANKED - offset) : limit;
    const response = await api.search({ ...body, offset, limit: size }, signal);
    if (offset > 0) return response;
    document.body.classList.remove("loading");
    describeResult(response);
    return response;
  };
  wall.show(source, { length: ranked ? 0 : expectedCount(state), at });
}

/** Show why nothing is shown; a service that does not answer is asked again until it does. */
function showFailure(error) {
  const again = () => (connected ? loadWall(store.start) : connect());
  const act = (label, action) => button(label, null, action, { text: true, class: "button-primary" });
  wall.clear();
  summary.textContent = "";
  document.body.classList.remove("loading");
  clearTimeout(retry);
  if (error.status === 401) {
    showMessage(message, "This service needs a key", "Without one it shows no images.", act("Enter a key", again));
  } else if (error.status === 0) {
    const text = "This page asks again every few seconds.";
    showMessage(message, "The service does not answer", text, act("Try again", again));
    retry = setTimeout(again, RETRY_MS);
  } else if (error.status === 400 && store.state.filter) {
    const clear = act("Clear the filter", () => store.set({ filter: "" }));
    showMessage(message, "The filter is not understood", error.message, clear);
  } else {
    const mayWork = error.status === 429 || error.status >= 500;
    showMessage(message, "The search failed", error.message, mayWork && act("Try again", again));
  }
  announce(error.message);
}

function expectedCount(state) {
  const filtered = scopeOf(state).where.length || state.filter;
  const named = service.collections.find(({ name }) => name === state.collection);
  return filtered ? 0 : ((named ?? service.collections[0])?.count ?? 0);
}

function describeResult(response) {
  const { state } = store;
  const { hits, total, weak_matches: weak } = response;
  const parts = [];
  if (total !== null) parts.push(count(total, "image"));
  else if (hits.length < response.limit) parts.push(count(hits.length, "image"));
  else parts.push("Best first");
  if (hits[0]?.fused_score !== null && hits[0]?.fused_score !== undefined) parts.push("by image and caption");
  summary.textContent = parts.join(" · ");
  summary.title = `${number(Math.round(response.took_ms))} ms`;
  hideMessage(message);
  if (!hits.length) showNoItems(message, store, { writable: canAdd(), add: openUploads });
  else if (weak === true) showNote(message, `Weak matches for ${queryName(state)}`);
  wall.divider.textContent = "Weak matches";
  const found = hasQuery(state) ? `Results for ${queryName(state)}: ` : "";
  announce(`${found}${parts.join(", ")}`);
}

function drawState(before) {
  const { state } = store;
  const title = hasQuery(state) ? `${queryName(state).replace(/[“”]/g, "")} · coca` : "coca";
  document.title = state.view === "duplicates" ? "Near-duplicates · coca" : title;
  // What the reader types while the page starts, or next to another change, stays.
  if (before && (before.text !== state.text || document.activeElement !== search)) search.value = state.text;
  const listed = state.view === "wall";
  $("#wall").hidden = !listed;
  $(".toolbar").hidden = !listed;
  $("#duplicates").hidden = listed;
  const changed = !before || resultOf(before) !== resultOf(state);
  if (changed) terms.draw();
  if (changed && listed) {
    duplicates.hide();
    loadWall(store.start);
  } else if (changed) {
    hideMessage(message);
    wall.clear();
  }
  if (connected) drawParts(before, changed);
}

/** Draw what depends on the routes of the service and on the rights of the key. */
function drawParts(before, changed) {
  const { state } = store;
  if (changed && state.view === "duplicates") duplicates.show();
  if (!before || scopeKey(before) !== scopeKey(state)) filters.load();
  else filters.draw();
  if (state.item) itemView.show(state.item);
  else itemView.hide();
}

async function describeCollections() {
  service = await api.collections();
  bar.draw();
  drawTools();
}

function drawTools() {
  const { collections } = service;
  const chosen = store.state.collection || collections[0]?.name;
  const select = h(
    "select",
    {
      class: "field field-small", "aria-label": "Collection",
      on: { change: () => store.set({ ...emptyState(), collection: select.value }) },
    },
    ...collections.map(({ name, count: size }) =>
      h("option", { value: name, selected: name === chosen }, `${name} (${number(size)})`)),
  );
  $("#tools").replaceChildren(
    ...(collections.length > 1 ? [select] : []),
    ...(canAdd() ? [button("Add images", "upload", openUploads)] : []),
    ...(hasRoute("post", "/v1/duplicates")
      ? [button("Near-duplicates", "duplicates", () => store.set({ view: "duplicates", item: "" }))]
      : []),
    button("Keys", "keyboard", showKeys, { class: "only-wide" }),
    themeButton(),
  );
}

const pickImage = $("#pick-image");
const pickUploads = $("#pick-uploads");

function openUploads() {
  uploads.open(() => pickUploads.click());
}

async function searchBy(file) {
  try {
    terms.ofImage(await addImage(file));
  } catch (error) {
    report(error);
  }
}

function submit(event) {
  event.preventDefault();
  const typed = readTyped(search.value);
  if (typed.term) {
    search.value = store.state.text;
    terms.add(typed.term);
  } else store.set({ text: typed.text, weight: 1, view: "wall", item: "" });
  if (matchMedia("(pointer: coarse)").matches) search.blur();
}

function listen() {
  $("#search-form").addEventListener("submit", submit);
  search.addEventListener("search", () => {
    // The cross of the field empties it.
    if (!search.value && store.state.text) store.set({ text: "", weight: 1 });
  });
  $("#search-image").addEventListener("click", () => pickImage.click());
  pickImage.addEventListener("change", () => {
    const [file] = pickImage.files;
    pickImage.value = "";
    if (file) searchBy(file);
  });
  pickUploads.addEventListener("change", () => {
    uploads.add([...pickUploads.files]);
    pickUploads.value = "";
  });
  $(".brand").addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    store.set({ ...emptyState(), collection: store.state.collection });
  });
  store.addEventListener("change", ({ detail }) => drawState(detail.before));
  wall.addEventListener("failed", ({ detail }) => (detail.first ? showFailure(detail.error) : report(detail.error)));
  wall.addEventListener("received", () => itemView.found());
  listenToTransfers({ onSearch: searchBy, onAdd: (files) => uploads.add(files), writable: canAdd });
  listenToKeys({ search, filters, wall, selection, bar });
}

onMissingKey(async (refused) => {
  apiKey.set("");
  const key = await promptDialog("This service needs a key", {
    label: "API key", action: "Continue", type: "password",
    error: refused ? "The service does not accept this key." : "",
    hint: "It is kept until this browser tab is closed.",
  });
  if (key) apiKey.set(key);
  return Boolean(key);
});

async function connect() {
  try {
    await Promise.all([readRoutes(), describeCollections()]);
  } catch (error) {
    showFailure(error);
    return;
  }
  connected = true;
  // The first search began at once; one that failed, or found nothing, is repeated.
  if (store.state.view === "wall" && !message.hidden && !wall.loaded().length) loadWall(store.start);
  drawTools();
  drawParts(null, true);
}

function start() {
  search.value = store.state.text;
  store.place = () => wall.place;
  drawTools();
  viewControls($("#view-controls"), () => wall.relayout());
  listen();
  drawState(null);
  connect();
}

start();
