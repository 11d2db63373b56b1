// Saved searches: saving a query with its marks, and a dialog with the number of new images of each.

import { api } from "./api.js";
import { openDialog, promptDialog } from "./dialogs.js";
import { button, h } from "./dom.js";
import { count, t } from "./language.js";
import { toast } from "./notices.js";
import { fromQuery, hasQuery, queryOf, scopeOf, toQuery } from "./state.js";

/** Whether a query can be saved: an image of the reader is in this browser only. */
export const canSave = (state) =>
  hasQuery(state) && state.terms.every(({ kind }) => kind !== "image") &&
  (state.text || state.terms.some(({ sign }) => sign > 0));

/** Save a query; what it finds now is seen. */
const save = (name, state) =>
  api.saveSearch(name, { ...scopeOf(state), ...queryOf(state), link: toQuery({ ...state, item: "" }) });

/** Ask for a name, and save the query with its marks and filters under it. */
export async function saveSearch(state) {
  const name = await promptDialog(t("Save this search"), {
    label: t("Name"), action: t("Save"),
    hint: t("The list of saved searches shows how many images are new."),
  });
  if (!name) return;
  await save(name, state);
  toast(t("Saved: {name}", { name }));
}

/** Show the saved searches of a collection; one that another client saved has no address here. */
export async function showSearches(store, writable) {
  const { collection } = store.state;
  const look = async (one) => {
    dialog.close();
    const state = fromQuery(one.link);
    store.set(state);
    if (writable) await save(one.name, state);
  };
  const remove = async (one, row) => {
    await api.deleteSearch(one.name, collection);
    row.remove();
    dialog.querySelector("button")?.focus();
    if (!list.children.length) list.replaceWith(none());
  };
  const row = (one) => {
    const element = h("li", { class: "saved-search" },
      button(one.name, "search", () => look(one), { text: true, class: "saved-search-name", disabled: !one.link }),
      one.new > 0 && h("span", { class: "saved-search-new" }, t("{images} new", { images: count(one.new, "image") })),
      writable && button(t("Delete {name}", { name: one.name }), "close", () => remove(one, element)),
    );
    return element;
  };
  const none = () => h("p", { class: "hint" }, t("No saved searches. Search for something, and choose “Save this search”."));
  const { searches } = await api.searches(collection);
  const list = h("ul", { class: "saved-searches" }, ...searches.map(row));
  const dialog = openDialog(t("Saved searches"), searches.length ? list : none());
}
