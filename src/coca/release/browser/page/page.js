// Search page of an exported collection: typed text, an image, or an image of the collection.

import { embedImage } from "./model.js";
import { Search } from "./search.js";

const PAGE = 60;
const $ = (id) => document.getElementById(id);
const [form, text, status, results, more] = ["search", "text", "status", "results", "more"].map($);

let search;
let collection;
let hits = [];
let latest = 0;

async function start() {
  try {
    search = await Search.open();
  } catch (error) {
    fail("The collection cannot be read", error);
    return;
  }
  collection = search.collection;
  document.title = collection.title;
  $("title").textContent = collection.title;
  $("pick-button").hidden = !collection.image_search;
  addEventListener("hashchange", follow);
  follow();
}

// Shows the search that the address names, so that Back returns to the search before.
function follow() {
  const query = new URLSearchParams(location.hash.slice(1));
  text.value = query.get("q") ?? "";
  const row = collection.items.findIndex((item) => item.id === query.get("like"));
  if (row >= 0) {
    run(`Similar to ${described(collection.items[row])}`, () => search.byRow(row));
  } else if (text.value) {
    run(`“${text.value}”`, () => search.byText(text.value));
  } else {
    latest++;
    hits = collection.items.map((_, number) => ({ row: number }));
    show(`${collection.items.length.toLocaleString("en")} images`);
  }
}

async function run(name, find) {
  const own = ++latest;
  status.textContent = `Searching: ${name}`;
  results.setAttribute("aria-busy", "true");
  try {
    const found = await find();
    // A later search has replaced this one.
    if (own !== latest) return;
    hits = found;
    show(`${name}: ${hits.length.toLocaleString("en")} images, best first`);
  } catch (error) {
    if (own === latest) fail("The search failed", error);
  } finally {
    if (own === latest) results.removeAttribute("aria-busy");
  }
}

function fail(what, error) {
  status.textContent = `${what}: ${error.message ?? error}`;
}

function show(line) {
  results.replaceChildren();
  results.removeAttribute("aria-busy");
  status.textContent = line;
  showMore();
}

function showMore() {
  const shown = results.childElementCount;
  const added = hits.slice(shown, shown + PAGE).map(tile);
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
  link.href = `#${new URLSearchParams({ like: item.id })}`;
  link.title = "Search for similar images";
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
  if (score !== undefined) {
    const figure = document.createElement("span");
    figure.className = "score";
    figure.textContent = score.toFixed(3);
    link.append(figure);
  }
  entry.append(link);
  return entry;
}

function described(item) {
  return item.caption || item.name;
}

function searchImage(file) {
  if (!file || !collection?.image_search) return;
  // Without the old address, as it does not describe this search.
  history.replaceState(null, "", location.pathname + location.search);
  text.value = "";
  const name = file.name ? `Similar to ${file.name}` : "Similar to the image";
  run(name, async () => search.byVector(await embedImage(file)));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const query = text.value.trim();
  location.hash = query ? new URLSearchParams({ q: query }) : "";
});
$("skip").addEventListener("click", (event) => {
  // The address names a search.
  event.preventDefault();
  results.focus();
});
more.addEventListener("click", () => showMore()?.querySelector("a").focus());
$("pick-button").addEventListener("click", () => $("pick").click());
$("pick").addEventListener("change", (event) => {
  searchImage(event.target.files[0]);
  event.target.value = "";
});
addEventListener("paste", (event) => searchImage(event.clipboardData.files[0]));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  searchImage(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== text && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    text.select();
  } else if (event.key === "Escape" && document.activeElement === text) {
    text.value = "";
  }
});

start();
