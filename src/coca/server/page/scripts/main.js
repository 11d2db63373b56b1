// The page: joins state, search field, wall, filters, item view and uploads.

import { SelectionBar } from "./actions.js";
import { Albums } from "./albums.js";
import { api, apiKey, hasRoute, onMissingKey, readRoutes, takeKeyOfLink } from "./api.js";
import { promptDialog } from "./dialogs.js";
import { $, button, h } from "./dom.js";
import { Duplicates } from "./duplicates.js";
import { Filters } from "./filters.js";
import { addImage, imageOf } from "./images.js";
import { ItemView } from "./item.js";
import { listenToKeys, showKeys } from "./keyboard.js";
import { count, date, language, number, switchLanguage, t, translatePage } from "./language.js";
import { faultOf, hideMessage, queryName, showMessage, showNoItems, showNote } from "./messages.js";
import { announce, report } from "./notices.js";
import { themeButton, tileSize, viewControls } from "./preferences.js";
import { Scrubber } from "./scrubber.js";
import { monthsOf } from "./sections.js";
import { Selection } from "./selection.js";
import { Store, emptyState, hasFilters, hasQuery, itself, queryOf, resultOf, scopeOf, toQuery } from "./state.js";
import { Suggestions, examplesOf } from "./suggestions.js";
import { Terms, readTyped } from "./terms.js";
import { listenToTransfers } from "./transfer.js";
import { Uploads } from "./uploads.js";
import { Wall } from "./wall.js";

/** Ranked searches end here; lists of all items do not. */
const MAX_RANKED = 16_384;
/** Best hits of a query that are sorted by date. */
const MAX_SORTED = 500;
/** Interval in which a service that does not answer is asked again. */
const RETRY_MS = 3000;
/** Time between two searches while typing: what a search takes, so that a slow service is not flooded. */
const PAUSE_MS = { least: 40, most: 600 };

const store = new Store();
const selection = new Selection();
/** Whether the routes and the collections of the service are known. */
let connected = false;
let retry = 0;
let service = { collections: [], writable: false, capabilities: [] };
/** When the last search began, and how long it took, in ms. */
let [searched, took] = [0, 0];
/** Captions of the collection that are examples of queries. */
let examples = [];
/** Date inside the text of the query, {text, first, last}; null without one. */
let period = null;

/** Return whether the model does more than search: "caption", "explain" or "answer". */
const can = (name) => service.capabilities.includes(name);
const writable = () => service.writable && hasRoute("patch", "/v1/items");
const canAdd = () => service.writable && hasRoute("post", "/v1/items");
const addressOf = (item, at = 0) => location.pathname + toQuery({ ...store.state, item: item.id, at });
const thumbnailOf = (id, side = 128) => {
  const { collection } = store.state;
  return `/v1/items/${encodeURIComponent(id)}/thumbnail?side=${side}${collection ? `&collection=${encodeURIComponent(collection)}` : ""}`;
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
const scrubber = new Scrubber(wall);
const filters = new Filters($("#filters"), $("#filters-toggle"), store);
const suggestions = new Suggestions(search, $("#suggestions"), {
  store, wall,
  examples: () => examples,
  onChoice: choose,
});
const onDeleted = (ids) => {
  selection.remove(ids);
  refresh();
};
const onChanged = () => {
  suggestions.forget();
  filters.load();
  if (!store.state.item) refresh();
};
const parts = { store, wall, selection, terms, can, writable, addressOf, onChanged, onDeleted };
const itemView = new ItemView(parts);
const duplicates = new Duplicates($("#duplicates"), parts);
const albums = new Albums($("#albums"), { store, thumbnailOf });
const bar = new SelectionBar($("#selection"), parts);
const uploads = new Uploads($("#uploads"), { store, can, addressOf, onAdded: () => refresh() });

/** Read the result, the counts and the collections again, after items were written. */
function refresh() {
  if (store.state.view === "wall") loadWall(wall.place ?? 0);
  suggestions.forget();
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
  document.body.classList.add("loading");
  const began = performance.now();
  searched = began;
  const read = hasQuery(state) ? (state.sort ? byDate(body) : ranked(body)) : listed(body);
  const source = async (offset, limit, signal) => {
    const response = await read(offset, limit, signal);
    if (offset > 0) return response;
    took = performance.now() - began;
    document.body.classList.remove("loading");
    describeResult(response);
    return response;
  };
  wall.show(source, { length: hasQuery(state) ? 0 : expectedCount(state), at });
}

const listed = (body) => (offset, limit, signal) =>
  api.search({ ...body, offset, limit, months: offset === 0 }, signal);

const ranked = (body) => async (offset, limit, signal) => {
  if (offset >= MAX_RANKED) return { hits: [], total: offset };
  return api.search({ ...body, offset, limit: Math.min(limit, MAX_RANKED - offset) }, signal);
};

/** Sort the best hits by date: the matches of a calibrated collection, else a number of them. */
function byDate(body) {
  let all = null;
  return async (offset, limit, signal) => {
    if (!all) {
      const response = await api.search({ ...body, limit: MAX_SORTED }, signal);
      const matches = response.hits.findLastIndex((hit) => hit.is_match === true) + 1;
      const hits = matches ? response.hits.slice(0, matches) : response.hits;
      hits.sort((a, b) => (b.time ?? -Infinity) - (a.time ?? -Infinity) || 0);
      all = { ...response, hits: hits.map((hit) => ({ ...hit, is_match: null })) };
    }
    const { hits } = all;
    return { ...all, hits: hits.slice(offset, offset + limit), total: hits.length, months: monthsOf(hits) };
  };
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
    showMessage(message, t("This service needs a key"), t("Without one it shows no images."), act(t("Enter a key"), again));
  } else if (error.status === 0) {
    const text = t("This page asks again every few seconds.");
    showMessage(message, t("The service does not answer"), text, act(t("Try again"), again));
    retry = setTimeout(again, RETRY_MS);
  } else if (error.status === 400 && store.state.filter) {
    const clear = act(t("Clear the filter"), () => store.set({ filter: "" }));
    showMessage(message, t("The filter is not understood"), error.message, clear);
  } else {
    const mayWork = error.status === 429 || error.status >= 500;
    showMessage(message, t("The search failed"), error.message, mayWork && act(t("Try again"), again));
  }
  announce(error.message);
}

function expectedCount(state) {
  const filtered = scopeOf(state).where.length || state.filter || state.trash;
  const named = service.collections.find(({ name }) => name === state.collection);
  return filtered ? 0 : ((named ?? service.collections[0])?.count ?? 0);
}

function describeResult(response) {
  const { state } = store;
  const { hits, total, weak_matches: weak } = response;
  period = response.period ?? null;
  const parts = [];
  if (total !== null) parts.push(count(total, "image"));
  else if (hits.length < response.limit) parts.push(count(hits.length, "image"));
  if (hits[0]?.fused_score !== null && hits[0]?.fused_score !== undefined) parts.push(t("by image and caption"));
  summary.textContent = parts.join(" · ");
  summary.title = `${number(Math.round(response.took_ms))} ms`;
  hideMessage(message);
  if (!hits.length) showNoItems(message, store, { writable: canAdd(), add: openUploads });
  else if (state.trash) showNote(message, t("Images in the trash. Open one to see when it is deleted for good."));
  else if (weak === true) showNote(message, t("Weak matches for {query}", { query: queryName(state) }));
  wall.divider.textContent = t("Weak matches");
  if (!hasQuery(state) && !hasFilters(state) && !state.trash && hits.length) examples = examplesOf(hits);
  drawResultTools();
  const found = hasQuery(state) ? `${t("Results for {query}", { query: queryName(state) })}: ` : "";
  announce(`${found}${parts.join(", ")}`);
}

/** Draw the examples of a page without a query, and the order and the bookmark of a query. */
function drawResultTools() {
  const { state } = store;
  const text = { text: true };
  const plain = !hasQuery(state) && !hasFilters(state) && !state.trash;
  const tools = [];
  if (state.trash) tools.push(button(t("All images"), "left", () => store.set({ trash: false }), text));
  if (hasQuery(state)) {
    const select = h(
      "select",
      {
        class: "field field-small", id: "sort", "aria-label": t("Order"),
        on: { change: () => store.set({ sort: select.value }) },
      },
      h("option", { value: "" }, t("Best matches first")),
      h("option", { value: "newest" }, t("Newest first")),
    );
    select.value = state.sort;
    tools.push(select);
  }
  if (hasQuery(state) && period && !state.from && !state.to) {
    const { text: name, first: from, last: to } = period;
    // What is left of "beach in summer 2019" is "beach".
    const left = state.text.split(/\s+/).join(" ").replace(name, "").trim().replace(/\s*\b(in|from|during|of|im|am|aus|von)$/i, "");
    tools.push(button(t("Only {period}", { period: name }), "clock", () => choose({ text: left, from, to }), { text: true, class: "chip-add" }));
  }
  if (!plain && !state.trash) {
    const saved = suggestions.isSaved(state);
    tools.push(button(t(saved ? "Forget this search" : "Save this search"), "bookmark", async () => {
      const value = state.text || [...state.tags, ...Object.values(state.values).flat()].join(", ");
      const name = saved || (await promptDialog(t("Save this search"), { label: t("Name"), action: t("Save"), value }));
      if (name) suggestions.save(store.state, name);
      drawResultTools();
    }, { "aria-pressed": String(saved) }));
  }
  if (plain) tools.push(...examples.map((one) => button(one, "search", () => choose({ text: one }), { text: true, class: "chip-example" })));
  $("#result-tools").replaceChildren(...tools);
}

function drawState(before) {
  const { state } = store;
  const title = hasQuery(state) ? `${queryName(state).replace(/[“”]/g, "")} · coca` : "coca";
  const views = { duplicates: t("Near-duplicates"), albums: t("Albums") };
  document.title = views[state.view] ? `${views[state.view]} · coca` : title;
  // What the reader types while the page starts, or next to another change, stays.
  const other = before && (before.text !== state.text || document.activeElement !== search);
  if (other && readTyped(search.value).text !== state.text) search.value = state.text;
  const wanted = state.view === "wall";
  $("#wall").hidden = !wanted;
  $(".toolbar").hidden = !wanted;
  $("#duplicates").hidden = state.view !== "duplicates";
  $("#albums").hidden = state.view !== "albums";
  const changed = !before || resultOf(before) !== resultOf(state);
  if (changed) terms.draw();
  if (changed && wanted) {
    duplicates.hide();
    loadWall(store.start);
  } else if (changed) {
    hideMessage(message);
    wall.clear();
    scrubber.draw();
  }
  if (connected) drawParts(before, changed);
}

/** Draw what depends on the routes of the service and on the rights of the key. */
function drawParts(before, changed) {
  const { state } = store;
  if (changed && state.view === "duplicates") duplicates.show();
  if (changed && state.view === "albums") albums.show();
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
  const change = () => store.set({ ...emptyState(), collection: select.value });
  const select = h(
    "select", { class: "field field-small", "aria-label": t("Collection"), on: { change } },
    ...collections.map(({ name, count: size }) =>
      h("option", { value: name, selected: name === chosen }, `${name} (${number(size)})`)),
  );
  const { collection } = store.state;
  $("#tools").replaceChildren(
    ...(collections.length > 1 ? [select] : []),
    ...(canAdd() ? [button(t("Add images"), "upload", openUploads)] : []),
    ...(hasRoute("post", "/v1/facets")
      ? [button(t("Albums"), "album", () => store.set({ ...emptyState(), collection, view: "albums" }))]
      : []),
    ...(hasRoute("post", "/v1/duplicates")
      ? [button(t("Near-duplicates"), "duplicates", () => store.set({ view: "duplicates", item: "" }))]
      : []),
    ...(writable() ? [button(t("Trash"), "trash", () => store.set({ ...emptyState(), collection, trash: true }))] : []),
    ...(writable() && apiKey.get() && hasRoute("post", "/v1/links") ? [button(t("Share"), "share", share)] : []),
    button(t("Keys"), "keyboard", showKeys, { class: "only-wide" }),
    button(language === "en" ? "Deutsch" : "English", "language", switchLanguage, { class: "only-wide" }),
    themeButton(),
  );
}

const pickImage = $("#pick-image");
const pickUploads = $("#pick-uploads");

function openUploads() {
  uploads.open(() => pickUploads.click());
}

/** Make a link to what is shown, which may only read and ends after some days. */
async function share() {
  const title = t("Share a link");
  const days = await promptDialog(title, {
    label: t("Days until the link ends"), type: "number", value: "30", action: t("Make the link"),
    hint: t("Whoever has the link sees the same images, and cannot change them."),
  });
  if (!days) return;
  try {
    const { key, expires } = await api.link(Number(days));
    const value = `${location.href.split("#")[0]}#key=${key}`;
    const label = t("Until {date}", { date: date(Date.parse(expires) / 1000) });
    if (await promptDialog(title, { label, value, action: t("Copy") })) await navigator.clipboard?.writeText(value);
  } catch (error) {
    report(error);
  }
}

async function searchBy(file) {
  try {
    terms.ofImage(await addImage(file));
  } catch (error) {
    report(error);
  }
}

/** Whether the last entry of the history is of a text that is still being typed. */
let typing = false;
let pause = 0;

function type() {
  clearTimeout(pause);
  const { text, term } = readTyped(search.value);
  // A text with a sign is a further term, which waits for Enter.
  if (term || text === store.state.text) return;
  store.set({ text, weight: 1, view: "wall", item: "" }, { replace: typing });
  typing = true;
}

/** Search a suggestion in place of what was typed. */
function choose(changes) {
  clearTimeout(pause);
  search.value = changes.text;
  store.set({ weight: 1, view: "wall", item: "", ...changes }, { replace: typing });
  typing = false;
  suggestions.remember(store.state);
}

/** Search what was typed, as a query that the reader has finished. */
function finish() {
  const { term } = readTyped(search.value);
  type();
  typing = false;
  if (term) {
    search.value = store.state.text;
    terms.add(term);
  } else if (store.state.view !== "wall") store.set({ view: "wall" });
  suggestions.close();
  suggestions.remember(store.state);
  if (matchMedia("(pointer: coarse)").matches) search.blur();
}

function listen() {
  $("#search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    finish();
  });
  const typed = (event) => {
    clearTimeout(pause);
    if (event.isComposing) return;
    const apart = Math.min(PAUSE_MS.most, Math.max(PAUSE_MS.least, took));
    // The first letter after a pause is searched at once.
    pause = setTimeout(type, searched + apart - performance.now());
  };
  search.addEventListener("input", typed);
  search.addEventListener("compositionend", typed);
  search.addEventListener("blur", () => {
    type();
    if (typing) suggestions.remember(store.state);
    typing = false;
  });
  addEventListener("popstate", () => (typing = false));
  $("#search-image").addEventListener("click", () => pickImage.click());
  pickImage.addEventListener("change", () => {
    const [file] = pickImage.files;
    pickImage.value = "";
    if (file) searchBy(file);
  });
  pickUploads.addEventListener("change", () => {
    const files = [...pickUploads.files];
    pickUploads.value = "";
    uploads.add(files);
  });
  $(".brand").addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    store.set({ ...emptyState(), collection: store.state.collection });
  });
  store.addEventListener("change", ({ detail }) => drawState(detail.before));
  wall.addEventListener("failed", ({ detail }) => (detail.first ? showFailure(detail.error) : report(detail.error)));
  wall.addEventListener("received", () => {
    itemView.found();
    scrubber.draw();
    suggestions.draw();
    if (selection.size) bar.draw();
  });
  listenToTransfers({
    onSearch: searchBy, onAdd: (files) => uploads.add(files), writable: canAdd,
    isEmpty: () => Boolean($(".empty-drop")),
  });
  listenToKeys({ search, filters, wall, selection, bar });
}

onMissingKey(async (refused) => {
  apiKey.set("");
  const key = await promptDialog(t("This service needs a key"), {
    label: t("API key"), action: t("Continue"), type: "password",
    error: refused ? t("The service does not accept this key.") : "",
    hint: t("It is kept until this browser tab is closed."),
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
  takeKeyOfLink();
  translatePage();
  search.value = store.state.text;
  store.place = () => wall.place;
  drawTools();
  viewControls($("#view-controls"), () => wall.relayout());
  listen();
  drawState(null);
  connect();
}

start();
