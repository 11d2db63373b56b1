// The page: joins state, search field, wall, filters, item view and uploads.

import { SelectionBar } from "./actions.js";
import { api, apiKey, onMissingKey } from "./api.js";
import { promptDialog } from "./dialogs.js";
import { $, button, h, menu } from "./dom.js";
import { Duplicates } from "./duplicates.js";
import { Filters } from "./filters.js";
import { addImage, imageOf } from "./images.js";
import { ItemView } from "./item.js";
import { listenToKeys, showKeys } from "./keyboard.js";
import { count, language, number, switchLanguage, t, translatePage } from "./language.js";
import { faultOf, hideMessage, queryName, showMessage, showNoItems } from "./messages.js";
import { announce, report } from "./notices.js";
import { rowHeight, sizeControl, themeButton } from "./preferences.js";
import { hitsOf, sectionButtons } from "./reasons.js";
import { SearchField } from "./search_field.js";
import { canSave, saveSearch, showSearches } from "./searches.js";
import { sectionsOf } from "./sections.js";
import { Selection } from "./selection.js";
import { Store, askedOf, countedOf, emptyState, fromQuery, hasQuery, itself, queryOf, resultOf, scopeOf, toQuery } from "./state.js";
import { Suggestions } from "./suggestions.js";
import { Terms } from "./terms.js";
import { listenToTransfers } from "./transfer.js";
import { Uploads } from "./uploads.js";
import { Wall } from "./wall.js";

/** Interval in which a service that does not answer is asked again. */
const RETRY_MS = 3000;

const store = new Store();
const selection = new Selection();
/** Whether the collections of the service are known. */
let connected = false;
let retry = 0;
let service = { collections: [], writable: false, capabilities: [] };
/** Date inside the text of the query, {text, first, last}; null without one. */
let period = null;
/** Text of the query without typing errors; empty if it has none. */
let meant = "";
/** Whether an opened item was changed since the wall was read. */
let isOutdated = false;
/** Sections of the hits, see `hitsOf` in reasons.js. */
let sections = [];

const writable = () => service.writable;
const addressOf = (item, at = 0) => location.pathname + toQuery({ ...store.state, item: item.id, at });
const thumbnailOf = (id, side = 128) => {
  const { collection } = store.state;
  return `/v1/items/${encodeURIComponent(id)}/thumbnail?side=${side}${collection ? `&collection=${encodeURIComponent(collection)}` : ""}`;
};

const search = $("#search-text");
const message = $("#message");
const summary = $("#summary");
const fold = $("#fold");
const terms = new Terms($("#chips"), store, thumbnailOf);
const wall = new Wall($("#wall"), {
  addressOf,
  asked: () => askedOf(store.state),
  selection,
  rowHeight,
  actions: {
    similar: (item) => terms.similarTo(item),
    more: (item) => terms.add(terms.ofItem(item, 1)),
    less: (item) => terms.add(terms.ofItem(item, -1)),
  },
});
const filters = new Filters($("#filters"), $("#filters-toggle"), store);
const suggestions = new Suggestions(search, $("#suggestions"), {
  store, wall, onChoice: (changes) => field.choose(changes),
});
const field = new SearchField($("#search-form"), search, { store, terms, suggestions });
const onGone = (ids) => {
  selection.remove(ids);
  refresh();
};
const onChanged = () => {
  suggestions.forget();
  filters.load();
  if (store.state.item) isOutdated = true;
  else refresh();
};
const parts = { store, wall, selection, terms, writable, addressOf, onChanged, onGone };
const itemView = new ItemView(parts);
const duplicates = new Duplicates($("#duplicates"), parts);
const bar = new SelectionBar($("#selection"), parts);
const uploads = new Uploads($("#uploads"), {
  store, addressOf,
  captions: () => service.capabilities.includes("caption"),
  onAdded: () => refresh(),
});

/** Read the result, the counts and the collections again, after items were written. */
function refresh() {
  if (store.state.view === "wall") loadWall(wall.place ?? 0);
  suggestions.forget();
  filters.load();
  describeCollections();
}

const countedKey = (state) => JSON.stringify(countedOf(state));

function loadWall(at = 0) {
  const { state } = store;
  isOutdated = false;
  clearTimeout(retry);
  fold.hidden = true;
  const fault = faultOf(state, imageOf);
  if (fault) {
    wall.clear();
    summary.textContent = "";
    showMessage(message, ...fault);
    return;
  }
  const scope = scopeOf(state);
  const body = { ...scope, where: [...scope.where, ...itself(state)], ...queryOf(state, imageOf), group_by: "video" };
  document.body.classList.add("loading");
  const ended = field.measure();
  const read = hasQuery(state) ? hitsOf(body, { asked: askedOf(state), all: state.all }) : listed(body);
  const source = async (offset, limit, signal) => {
    const response = await read(offset, limit, signal);
    if (response.folded) drawFold(response.total);
    if (offset > 0) return response;
    ended();
    document.body.classList.remove("loading");
    describeResult(response, limit);
    return response;
  };
  wall.show(source, { length: hasQuery(state) ? 0 : expectedCount(state), at });
}

const listed = (body) => async (offset, limit, signal) => {
  const response = await api.search({ ...body, offset, limit, sections: offset === 0 }, signal);
  return { ...response, headings: sectionsOf(response.sections ?? []) };
};

/** Draw the end of a number of likely hits, and the button that shows the others below them. */
function drawFold(likely) {
  const show = () => {
    const at = wall.place ?? 0;
    store.set({ all: true }, { replace: true });
    wall.addEventListener("received", () => wall.focus(likely), { once: true });
    loadWall(at);
  };
  fold.replaceChildren(
    h("h2", {}, t("Probably not")),
    h("p", { class: "hint" }, t("The other images probably do not show {query}.", { query: queryName(store.state) })),
    button(t("Show them"), null, show, { text: true }),
  );
  fold.hidden = false;
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
  } else {
    const mayWork = error.status === 429 || error.status >= 500;
    showMessage(message, t("The search failed"), error.message, mayWork && act(t("Try again"), again));
  }
  announce(error.message);
}

function expectedCount(state) {
  const filtered = scopeOf(state).where.length || state.hidden;
  const named = service.collections.find(({ name }) => name === state.collection);
  return filtered ? 0 : ((named ?? service.collections[0])?.count ?? 0);
}

function describeResult(response, limit) {
  const { state } = store;
  const { hits, total } = response;
  period = response.period ?? null;
  meant = response.did_you_mean ?? "";
  sections = response.headings ?? [];
  const notes = [];
  if (total !== null) notes.push(count(total, "image"));
  else if (total === null && hits.length < limit) notes.push(count(hits.length, "image"));
  if (response.without?.length) notes.push(t("without {words}", { words: response.without.join(", ") }));
  hideMessage(message);
  if (!hits.length) showNoItems(message, store, { writable: writable(), add: openUploads });
  else if (state.hidden) notes.push(t("No search finds these images."));
  summary.textContent = notes.join(" · ");
  drawResultTools();
  const found = hasQuery(state) ? `${t("Results for {query}", { query: queryName(state) })}: ` : "";
  announce(`${found}${notes.join(", ")}`);
}

/** Draw the way back from the hidden items, a correction, and the date inside a text as a filter. */
function drawResultTools() {
  const { state } = store;
  const tools = [];
  if (hasQuery(state)) tools.push(...sectionButtons(sections, (section) => wall.focus(section.start, "start")));
  if (state.hidden) tools.push(button(t("All images"), "left", () => store.set({ hidden: false }), { text: true }));
  if (meant) {
    tools.push(button(t("Did you mean “{text}”?", { text: meant }), "search", () => field.choose({ text: meant }), { text: true, class: "chip-add" }));
  }
  if (hasQuery(state) && period && !state.from && !state.to) {
    const { text: name, first: from, last: to } = period;
    // What is left of "beach in summer 2019" is "beach".
    const left = state.text.split(/\s+/).join(" ").replace(name, "").trim().replace(/\s*\b(in|from|during|of|im|am|aus|von)$/i, "");
    tools.push(button(t("Only {period}", { period: name }), "clock", () => field.choose({ text: left, from, to }), { text: true, class: "chip-add" }));
  }
  if (hasQuery(state)) tools.push(orderOf(state));
  if (writable() && canSave(state)) tools.push(button(t("Save this search"), null, () => saveSearch(state), { text: true, class: "chip-add" }));
  $("#result-tools").replaceChildren(...tools);
}

/** Build the choice of the order of hits. */
function orderOf({ sort }) {
  const orders = [["", t("Best first")], ["newest", t("Newest first")], ["oldest", t("Oldest first")]];
  const select = h("select", { class: "field field-small", "aria-label": t("Order"), on: { change: () => store.set({ sort: select.value }) } },
    ...orders.map(([value, name]) => h("option", { value, selected: value === sort }, name)));
  return select;
}

function drawState(before) {
  const { state } = store;
  $(".brand").href = location.pathname + toQuery({ ...emptyState(), collection: state.collection });
  const title = hasQuery(state) ? `${queryName(state).replace(/[“”]/g, "")} · coca` : "coca";
  document.title = state.view === "duplicates" ? `${t("Near-duplicates")} · coca` : title;
  if (before) field.show(state, before);
  const wanted = state.view === "wall";
  $("#wall").hidden = !wanted;
  $(".toolbar").hidden = !wanted;
  // The values of filters are those of the other images.
  for (const one of ["#filters", "#filters-toggle"]) $(one).hidden = state.hidden || !wanted;
  $("#duplicates").hidden = state.view !== "duplicates";
  const changed = !before || resultOf(before) !== resultOf(state);
  if (changed) terms.draw();
  if (changed && wanted) {
    duplicates.hide();
    loadWall(store.start);
  } else if (changed) {
    hideMessage(message);
    wall.clear();
  } else if (isOutdated && !state.item) refresh();
  if (connected) drawParts(before, changed);
}

/** Draw what depends on the rights of the key. */
function drawParts(before, changed) {
  const { state } = store;
  if (changed && state.view === "duplicates") duplicates.show();
  if (!before || countedKey(before) !== countedKey(state)) filters.load();
  else filters.draw();
  if (state.item) itemView.show(state.item);
  else itemView.hide();
}

async function describeCollections() {
  service = await api.collections();
  bar.draw();
  drawTools();
  drawResultTools();
}

function drawTools() {
  const { collections } = service;
  const chosen = store.state.collection || collections[0]?.name;
  const change = () => store.set({ ...emptyState(), collection: select.value });
  const select = h("select", { class: "field field-small", "aria-label": t("Collection"), on: { change } },
    ...collections.map(({ name, count: size }) =>
      h("option", { value: name, selected: name === chosen }, `${name} (${number(size)})`)),
  );
  const { collection } = store.state;
  const showHidden = () => store.set({ ...emptyState(), collection, hidden: true });
  $("#tools").replaceChildren(
    ...(collections.length > 1 ? [select] : []),
    ...(writable() ? [button(t("Add images"), "upload", openUploads)] : []),
    button(t("Saved searches"), "saved", () => showSearches(store, writable())),
    ...menu("menu",
      button(t("Near-duplicates"), "duplicates", () => store.set({ view: "duplicates", item: "" }), { text: true }),
      writable() && button(t("Hidden images"), "hide", showHidden, { text: true }),
      button(t("Keys"), "keyboard", showKeys, { text: true, class: "only-wide" }),
      button(language === "en" ? "Deutsch" : "English", "language", switchLanguage, { text: true }),
      themeButton(),
    ),
  );
}

const pickImage = $("#pick-image");
const pickUploads = $("#pick-uploads");

const openUploads = () => pickUploads.click();

const searchBy = async (file) => terms.ofImage(await addImage(file));

/** Change the state in place of loading the page again, where a link leads to another state. */
function followLink(event) {
  const link = event.target.closest("a");
  const isApart = event.metaKey || event.ctrlKey || event.shiftKey || event.defaultPrevented;
  if (isApart || !link || link.target || link.hash || link.pathname !== location.pathname) return;
  event.preventDefault();
  store.set(fromQuery(link.search));
}

function listen() {
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    report(event.reason);
  });
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
  document.addEventListener("click", followLink);
  store.addEventListener("change", (/** @type {any} */ { detail }) => drawState(detail.before));
  wall.addEventListener("failed", (/** @type {any} */ { detail }) => (detail.first ? showFailure(detail.error) : report(detail.error)));
  wall.addEventListener("received", () => {
    itemView.found();
    suggestions.draw();
    if (selection.size) bar.draw();
  });
  listenToTransfers({
    onSearch: searchBy, onAdd: (files) => uploads.add(files), writable,
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
    await describeCollections();
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
  translatePage();
  search.value = store.state.text;
  store.place = () => wall.place;
  drawTools();
  $("#view-controls").append(bar.toggle, sizeControl(() => wall.relayout()));
  listen();
  drawState(null);
  connect();
}

start();
