// State of the page and its URL: every query, filter, item and view has an address.

const SEPARATOR = ":";
/** Time from the end of a scroll to the note of its place. */
const PLACE_MS = 150;

/** State of an empty query: all items, newest first. */
export function emptyState() {
  return {
    collection: "",
    view: "wall",
    text: "",
    weight: 1,
    terms: [],
    tags: [],
    values: {},
    from: "",
    to: "",
    filter: "",
    album: false,
    /** Order of the hits of a query: "" is best first, "newest" is by date. */
    sort: "",
    /** Whether the items in the trash are shown instead of the others. */
    trash: false,
    /** Whether a query of texts is also compared with the words of given captions. */
    words: true,
    item: "",
    /** Index of the opened item in the result, from which its neighbours are found. */
    at: 0,
  };
}

/**
 * A term of a query besides the text of the search field.
 * kind: "text", "id" (item) or "image" (key of an image that this browser has);
 * weight: above 0; negative terms have sign -1; region: [x0, y0, x1, y1] or null.
 */
export function term(kind, value, { sign = 1, weight = 1, region = null } = {}) {
  return { kind, value, sign, weight, region };
}

const encodeTerm = ({ kind, weight, region, value }) =>
  [kind, weight === 1 ? "" : weight, region ? region.join(",") : "", value].join(SEPARATOR);

function decodeTerm(text, sign) {
  const [kind, weight, region, ...rest] = text.split(SEPARATOR);
  const value = rest.join(SEPARATOR);
  if (!["text", "id", "image"].includes(kind) || !value) return null;
  const box = region ? region.split(",").map(Number) : null;
  const given = Number(weight || 1);
  return term(kind, value, {
    sign,
    weight: given > 0 && given <= 10 ? given : 1,
    region: box && isBox(box) ? box : null,
  });
}

function isBox(box) {
  const inside = box.every((side) => Number.isFinite(side) && side >= 0 && side <= 1);
  return box.length === 4 && inside && box[0] < box[2] && box[1] < box[3];
}

/** Write a state as a query string; an empty state is the empty string. */
export function toQuery(state) {
  const query = new URLSearchParams();
  const put = (name, value) => value && query.append(name, value);
  put("c", state.collection);
  put("view", state.view === "wall" ? "" : state.view);
  put("q", state.text);
  put("w", state.weight === 1 ? "" : String(state.weight));
  for (const one of state.terms) put(one.sign > 0 ? "more" : "less", encodeTerm(one));
  for (const tag of state.tags) put("tag", tag);
  for (const [field, values] of Object.entries(state.values)) {
    for (const value of values) put(`in.${field}`, JSON.stringify(value));
  }
  put("from", state.from);
  put("to", state.to);
  put("filter", state.filter);
  put("group", state.album ? "album" : "");
  put("words", state.words ? "" : "0");
  put("sort", state.sort);
  put("trash", state.trash ? "1" : "");
  put("item", state.item);
  put("at", state.item && state.at > 0 ? String(state.at) : "");
  const text = query.toString();
  return text ? `?${text}` : "";
}

/** Read a state from a query string; what is malformed is left out. */
export function fromQuery(text) {
  const query = new URLSearchParams(text);
  const state = emptyState();
  const weight = Number(query.get("w") || 1);
  state.collection = query.get("c") ?? "";
  state.view = ["duplicates", "albums"].find((name) => name === query.get("view")) ?? "wall";
  state.text = query.get("q") ?? "";
  state.weight = weight > 0 && weight <= 10 ? weight : 1;
  for (const [name, value] of query) {
    if (name === "more" || name === "less") {
      const one = decodeTerm(value, name === "more" ? 1 : -1);
      if (one) state.terms.push(one);
    } else if (name === "tag") state.tags.push(value);
    else if (name.startsWith("in.") && name.length > 3) {
      const parsed = parseValue(value);
      if (parsed !== undefined) (state.values[name.slice(3)] ??= []).push(parsed);
    }
  }
  state.from = day(query.get("from"));
  state.to = day(query.get("to"));
  state.filter = query.get("filter") ?? "";
  state.album = query.get("group") === "album";
  state.words = query.get("words") !== "0";
  state.sort = query.get("sort") === "newest" ? "newest" : "";
  state.trash = query.get("trash") === "1";
  state.item = query.get("item") ?? "";
  if (state.item && /^\d{1,7}$/.test(query.get("at"))) state.at = Number(query.get("at"));
  return state;
}

/** The part of a state that decides which items the wall shows. */
export const resultOf = (state) => toQuery({ ...state, item: "" });

const day = (text) => (/^\d{4}-\d\d-\d\d$/.test(text ?? "") ? text : "");

function parseValue(text) {
  try {
    const value = JSON.parse(text);
    return ["string", "number", "boolean"].includes(typeof value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Return whether a state has a query, so that hits have scores. */
export const hasQuery = (state) => Boolean(state.text) || state.terms.length > 0;

/** Return whether a state's query has texts only, which are compared with captions as well. */
export const hasOnlyTexts = ({ text, terms }) =>
  (Boolean(text) || terms.some(({ sign }) => sign > 0)) && terms.every(({ kind }) => kind === "text");

/** Return whether a state has filters. */
export const hasFilters = (state) =>
  state.tags.length > 0 ||
  Object.values(state.values).some((values) => values.length > 0) ||
  Boolean(state.from || state.to || state.filter);

const SECONDS_PER_DAY = 86_400;

/** Build the filters of a request from a state; days are inclusive. */
export function scopeOf(state) {
  const where = [];
  if (state.tags.length) where.push({ field: "tags", operator: "has all", value: state.tags });
  for (const [field, values] of Object.entries(state.values)) {
    // A list in the metadata, such as albums, has each of its values.
    const operator = field.startsWith("metadata.") ? "has any" : "in";
    if (values.length) where.push({ field, operator, value: values });
  }
  // Items of unknown time have the time 0.
  if (state.from) where.push({ field: "time", operator: ">=", value: secondsOf(state.from) });
  if (state.to) {
    where.push({ field: "time", operator: "<", value: secondsOf(state.to) + SECONDS_PER_DAY });
    if (!state.from) where.push({ field: "time", operator: "!=", value: 0 });
  }
  const scope = { where, filter: state.filter };
  if (state.collection) scope.collection = state.collection;
  if (state.trash) scope.trashed = true;
  return scope;
}

const secondsOf = (text) => Date.parse(`${text}T00:00:00Z`) / 1000;

/** Build the conditions that leave out the item of a query by this item alone. */
export function itself({ text, terms }) {
  const [only] = terms;
  const alone = !text && terms.length === 1 && only.kind === "id" && !only.region;
  return alone ? [{ field: "id", operator: "!=", value: only.value }] : [];
}

/** Build the query of a request from a state; `imageOf` returns the data URI of an image's key. */
export function queryOf(state, imageOf) {
  const body = { positive: [], negative: [] };
  if (state.text) Object.assign(body, { text: state.text, weight: state.weight });
  for (const { kind, value, sign, weight, region } of state.terms) {
    const example = { [kind]: kind === "image" ? imageOf(value) : value, weight };
    if (region && kind !== "text") example.region = region;
    (sign > 0 ? body.positive : body.negative).push(example);
  }
  if (state.album && hasQuery(state)) body.group_by = "album";
  if (!state.words && hasQuery(state)) body.hybrid = false;
  return body;
}

/** Holds the state, keeps the address in step with it, and calls listeners on a change. */
export class Store extends EventTarget {
  /** Returns the index of the first image that the reader sees; null while there is none. */
  place = () => null;

  constructor() {
    super();
    this.state = fromQuery(location.search);
    history.scrollRestoration = "manual";
    addEventListener("popstate", () => this.#change(fromQuery(location.search)));
    // A reload, and the way back, return to the place; Chromium drops what is noted in `pagehide`.
    let timer = 0;
    addEventListener("scroll", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#keepPlace(), PLACE_MS);
    }, { passive: true });
  }

  /** Index of the image at which the result of this entry of the history begins. */
  get start() {
    return history.state?.at ?? this.state.at;
  }

  #keepPlace() {
    const at = this.place();
    if (at !== null) history.replaceState({ at }, "");
  }

  /** Change parts of the state; `replace` adds no entry to the history. */
  set(changes, { replace = false } = {}) {
    const state = { ...this.state, at: 0, ...changes };
    const query = toQuery(state);
    if (query !== toQuery(this.state)) {
      const address = location.pathname + query;
      this.#keepPlace();
      const kept = resultOf(state) === resultOf(this.state) ? history.state : { at: 0 };
      if (replace) history.replaceState(kept, "", address);
      else history.pushState(kept, "", address);
    }
    this.#change(state);
  }

  #change(state) {
    const before = this.state;
    this.state = state;
    this.dispatchEvent(new CustomEvent("change", { detail: { before } }));
  }
}
