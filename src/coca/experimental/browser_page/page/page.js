// Search page of an exported collection: by typed text, or by an image of the collection.

import { bytes, json, onProgress } from "./files.js";
import { embedQuery } from "./model.js";
import { Vectors } from "./vectors.js";

const PAGE = 60;
const FIELDS = ["tag", "album", "year"];
const $ = (id) => document.getElementById(id);
const [form, text, status, results, more, progress, view] = [
  "search", "text", "status", "results", "more", "progress", "view",
].map($);

let collection;
let vectors;
/** Hits of the last search, and those of them that the filters keep. */
let found = [];
let hits = [];
let name = "";
/** Search and filters that are shown, as in the address. */
let [shown, filtered] = ["", ""];
let latest = 0;

const count = (number) => `${number.toLocaleString("en")} image${number === 1 ? "" : "s"}`;
const address = (changes) => {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const [key, value] of Object.entries(changes)) {
    if (value) query.set(key, value);
    else query.delete(key);
  }
  return `#${query}`;
};

async function start() {
  onProgress(({ read, all }) => {
    progress.hidden = !all;
    if (all) Object.assign(progress, { max: all, value: read });
    const mb = (size) => (size / 1e6).toFixed(1);
    $("loading").textContent = all ? `Loading ${mb(read)} of ${mb(all)} MB` : "";
  });
  try {
    collection = await json("collection.json");
    vectors = new Vectors(await bytes("vectors.bin"), collection.embed_dim);
  } catch (error) {
    fail("The collection cannot be read", error);
    return;
  }
  document.title = collection.title;
  $("title").textContent = collection.title;
  for (const field of FIELDS) fillFilter(field);
  addEventListener("hashchange", follow);
  follow();
}

const valuesOf = (item, field) => (field === "tag" ? item.tags : [item[field]]).filter(Boolean).map(String);

function fillFilter(field) {
  const counts = new Map();
  for (const item of collection.items) {
    for (const value of valuesOf(item, field)) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const select = $(field);
  for (const value of [...counts.keys()].sort()) select.add(new Option(`${value} (${counts.get(value)})`, value));
  select.parentElement.hidden = counts.size < 2;
  select.addEventListener("change", () => (location.hash = address({ [field]: select.value, item: "" })));
}

// Shows the search that the address names, so that Back returns to the search before.
function follow() {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const field of FIELDS) $(field).value = query.get(field) ?? "";
  const wanted = JSON.stringify(["q", "like"].map((key) => query.get(key)));
  if (wanted !== shown) {
    shown = wanted;
    text.value = query.get("q") ?? "";
    const row = collection.items.findIndex((item) => item.id === query.get("like"));
    if (row >= 0) run(`Similar to ${described(collection.items[row])}`, () => vectors.row(row));
    else if (text.value) run(`“${text.value}”`, () => embedQuery(text.value));
    else {
      latest++;
      found = collection.items.map((_, number) => ({ row: number }));
      show("");
    }
  } else if (filtered !== filtersOf(query)) show(name);
  const row = collection.items.findIndex((item) => item.id === query.get("item"));
  if (row >= 0) open(row);
  else if (view.open) view.close();
}

const filtersOf = (query) => JSON.stringify(FIELDS.map((field) => query.get(field)));

// Searches by the vector of a query.
async function run(what, embed) {
  const own = ++latest;
  status.textContent = `Searching: ${what}`;
  results.setAttribute("aria-busy", "true");
  try {
    const query = await embed();
    // A later search has replaced this one.
    if (own !== latest) return;
    found = vectors.nearest(query);
    show(what);
  } catch (error) {
    if (own === latest) fail("The search failed", error);
  } finally {
    if (own === latest) results.removeAttribute("aria-busy");
  }
}

function fail(what, error) {
  status.textContent = `${what}: ${error.message ?? error}`;
}

function show(what) {
  name = what;
  const query = new URLSearchParams(location.hash.slice(1));
  const kept = ({ row }) => FIELDS.every((field) => {
    const value = query.get(field);
    return !value || valuesOf(collection.items[row], field).includes(value);
  });
  hits = found.filter(kept);
  filtered = filtersOf(query);
  results.replaceChildren();
  results.removeAttribute("aria-busy");
  status.textContent = name ? `${name}: ${count(hits.length)}, best matches first` : count(hits.length);
  showMore();
}

function showMore() {
  const before = results.childElementCount;
  const added = hits.slice(before, before + PAGE).map(tile);
  results.append(...added);
  more.hidden = results.childElementCount >= hits.length;
  return added[0];
}

function tile({ row, score }) {
  const item = collection.items[row];
  const entry = document.createElement("li");
  const link = document.createElement("a");
  link.className = "tile";
  link.dataset.id = item.id;
  if (score !== undefined) link.dataset.score = score;
  link.href = "#";
  link.addEventListener("click", (event) => {
    event.preventDefault();
    location.hash = address({ item: item.id });
  });
  if (item.thumbnail) {
    const image = document.createElement("img");
    image.src = item.thumbnail;
    image.alt = "";
    image.loading = "lazy";
    [image.width, image.height] = [item.width, item.height];
    link.append(image);
  }
  const caption = document.createElement("span");
  caption.className = "caption";
  caption.textContent = described(item);
  link.append(caption);
  entry.append(link);
  return entry;
}

function described(item) {
  return item.caption || item.name;
}

// Shows an image enlarged, with its record.
function open(row) {
  const item = collection.items[row];
  const at = hits.findIndex((hit) => hit.row === row);
  $("view-image").src = item.image ?? "";
  $("view-image").alt = described(item);
  $("view-image").hidden = !item.image;
  $("view-title").textContent = described(item);
  $("view-about").textContent = [item.name, item.album, item.tags.join(", "), item.year].filter(Boolean).join(" · ");
  $("similar").href = `#${new URLSearchParams({ like: item.id })}`;
  $("download").hidden = !item.image;
  if (item.image) {
    $("download").href = item.image;
    $("download").download = `${item.name.replace(/\.\w+$/, "")}.jpg`;
  }
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    const neighbour = at < 0 ? undefined : hits[at + step];
    $(id).disabled = !neighbour;
    $(id).onclick = () => location.replace(address({ item: collection.items[neighbour.row].id }));
  }
  if (!view.open) view.showModal();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = address({ q: text.value.trim(), like: "", item: "" });
  // A failed search is repeated.
  if (hash === location.hash) shown = "";
  if (hash === location.hash) follow();
  else location.hash = hash;
});
$("skip").addEventListener("click", (event) => {
  // The address names a search.
  event.preventDefault();
  results.focus();
});
more.addEventListener("click", () => showMore()?.querySelector("a").focus());
$("close").addEventListener("click", () => view.close());
view.addEventListener("click", (event) => event.target === view && view.close());
view.addEventListener("close", () => {
  const id = new URLSearchParams(location.hash.slice(1)).get("item");
  if (!id) return;
  location.hash = address({ item: "" });
  results.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus();
});
view.addEventListener("keydown", ({ key }) => {
  if (key === "ArrowLeft") $("previous").click();
  if (key === "ArrowRight") $("next").click();
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== text && !event.ctrlKey && !event.metaKey && !view.open) {
    event.preventDefault();
    text.select();
  } else if (event.key === "Escape" && document.activeElement === text) {
    text.value = "";
  }
});

start();
