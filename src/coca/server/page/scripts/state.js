// State of the page and its URL: every query, filter, item and view has an address.

const SEPARATOR = ":";
/** Orders by time. */
const ORDERS = ["newest", "oldest"];
/** Time from the end of a scroll to the note of its place. */
const PLACE_MS = 150;

/** State of an empty query: all items, newest first. */
export function emptyState() {
  return {
    collection: "",
    view: "wall",
    text: "",
    terms: [],
    tags: [],
    values: {},
    from: "",
    to: "",
    /** Order of the hits of a query: "" (best first), "newest" or "oldest". */
    sort: "",
    /** Whether hits that probably do not show the query are shown below the others. */
    all: false,
    /** Whether the hidden items are shown instead of the others. */
    hidden: false,
    item: "",
    /** Index of the opened item in the result, from which its neighbours are found. */
    at: 0,
  };
}

/**
 * A term of a query besides the text of the search field.
 * kind: "text", "id" (item) or "image" (key of an image that this browser has); sign: 1 or -1.
 */
export const term = (kind, value, sign = 1) => ({ kind, value, sign });

function decodeTerm(text, sign) {
  const [kind, ...rest] = text.split(SEPARATOR);
  const value = rest.join(SEPARATOR);
  return ["text", "id", "image"].includes(kind) && value ? term(kind, value, sign) : null;
}

/** Write a state as a query string; an empty state is the empty string. */
export function toQuery(state) {
  const query = new URLSearchParams();
  const put = (name, value) => value && query.append(name, value);
  put("c", state.collection);
  put("view", state.view === "wall" ? "" : state.view);
  put("q", state.text);
  for (const { kind, value, sign } of state.terms) put(sign > 0 ? "more" : "less", kind + SEPARATOR + value);
  for (const tag of state.tags) put("tag", tag);
  for (const [field, values] of Object.entries(state.values)) {
    for (const value of values) put(`in.${field}`, JSON.stringify(value));
  }
  put("from", state.from);
  put("to", state.to);
  put("sort", hasQuery(state) ? state.sort : "");
  put("all", hasQuery(state) && state.all ? "1" : "");
  put("hidden", state.hidden ? "1" : "");
  put("item", state.item);
  put("at", state.item && state.at > 0 ? String(state.at) : "");
  const text = query.toString();
  return text ? `?${text}` : "";
}

/** Read a state from a query string; what is malformed is left out. */
export function fromQuery(text) {
  const query = new URLSearchParams(text);
  const state = emptyState();
  state.collection = query.get("c") ?? "";
  state.view = query.get("view") === "duplicates" ? "duplicates" : "wall";
  state.text = query.get("q") ?? "";
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
  state.sort = ORDERS.includes(query.get("sort")) ? query.get("sort") : "";
  state.all = query.get("all") === "1";
  state.hidden = query.get("hidden") === "1";
  state.item = query.get("item") ?? "";
  if (state.item && /^\d{1,7}$/.test(query.get("at"))) state.at = Number(query.get("at"));
  return state;
}

/** The part of a state that decides which items the wall shows. */
export const resultOf = (state) => toQuery({ ...state, item: "", all: false });

/** Texts of a query that are wanted. */
export const askedOf = ({ text, terms }) =>
  [text, ...terms.filter(({ kind, sign }) => kind === "text" && sign > 0).map(({ value }) => value)].join(" ").trim();

const queryKey = ({ text, terms }) => JSON.stringify([text, terms]);

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

/** Return whether a state has filters. */
export const hasFilters = (state) =>
  state.tags.length > 0 ||
  Object.values(state.values).some((values) => values.length > 0) ||
  Boolean(state.from || state.to);

const SECONDS_PER_DAY = 86_400;

/** Build the filters of a request from a state; days are inclusive. */
export function scopeOf(state) {
  const where = [];
  if (state.tags.length) where.push({ field: "tags", operator: "has all", value: state.tags });
  for (const [field, values] of Object.entries(state.values)) {
    // A list in the metadata, such as people, has each of its values.
    const operator = field.startsWith("metadata.") ? "has any" : "in";
    if (values.length) where.push({ field, operator, value: values });
  }
  // Items of unknown time have the time 0.
  if (state.from) where.push({ field: "time", operator: ">=", value: secondsOf(state.from) });
  if (state.to) {
    where.push({ field: "time", operator: "<", value: secondsOf(state.to) + SECONDS_PER_DAY });
    if (!state.from) where.push({ field: "time", operator: "!=", value: 0 });
  }
  return { where, ...(state.collection && { collection: state.collection }) };
}

/** Build a request to count the values of a result: of a text its likely hits, else all that the filters keep. */
export const countedOf = (state) => ({
  ...scopeOf(state), ...(state.text && !state.terms.length && { text: state.text }), group_by: "video",
});

const secondsOf = (text) => Date.parse(`${text}T00:00:00Z`) / 1000;

/** Build the conditions that leave out the item of a query by this item alone. */
export function itself({ text, terms }) {
  const [only] = terms;
  const alone = !text && terms.length === 1 && only.kind === "id";
  return alone ? [{ field: "id", operator: "!=", value: only.value }] : [];
}

/** Build the query of a request from a state; `imageOf` returns the data URI of an image's key. */
export function queryOf(state, imageOf) {
  const body = { positive: [], negative: [] };
  if (state.text) body.text = state.text;
  for (const { kind, value, sign } of state.terms) {
    (sign > 0 ? body.positive : body.negative).push({ [kind]: kind === "image" ? imageOf(value) : value });
  }
  if (state.hidden) body.hidden = true;
  if (state.sort && hasQuery(state)) body.sort = state.sort;
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
    // Unlikely hits are those of one query.
    if (queryKey(state) !== queryKey(this.state)) Object.assign(state, { all: false }, changes);
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
