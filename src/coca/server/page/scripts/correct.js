// Correction of what an item says: its caption, tags and people, each with an undo.

import { button, h } from "./dom.js";
import { t } from "./language.js";

/** Show what people replaced in a field, with a button that restores it; null if they did not. */
function undoOf(item, field, change) {
  if (!(field in item.unedited)) return null;
  const before = [item.unedited[field] ?? []].flat().join(", ") || "–";
  return h("p", { class: "hint" },
    t("Before: {before}", { before }),
    " ",
    button(t("Restore {before}", { before }), "undo", () => change({ undo: [field] })),
  );
}

/** Build the section of captions; `change(changes)` writes one, and is null if nobody may. */
export function captionSection(item, change) {
  const sources = { given: "Caption given with the image", model: "Caption generated" };
  const isEdited = "caption" in item.unedited;
  const source = isEdited ? "Caption corrected" : sources[item.caption_source] ?? "No caption";
  const others = item.captions.slice(1).map((caption) => h("li", {}, caption));
  const input = h("textarea", { class: "field", rows: "2", "aria-label": t("Caption"), value: item.caption });
  const submit = (event) => {
    event.preventDefault();
    change({ caption: input.value.trim() });
  };
  // A new line is of a letter, and not of a caption.
  input.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && submit(event));
  return h("section", { class: "item-section", "aria-label": t("Captions") },
    change && h("form", { class: "caption-form", on: { submit } },
      input,
      h("button", { class: "button" }, t(item.caption_source === "model" ? "Confirm the caption" : "Save the caption")),
    ),
    others.length > 0 && h("ul", { class: "item-captions", role: "list" }, ...others),
    h("p", { class: "hint" }, t(source)),
    change && undoOf(item, "caption", change),
  );
}

/**
 * Build a section of short texts, each of which can be searched and removed, and more be added.
 * @param {any} options `title`, `label` (of the input), `field` (in `unedited`), `texts`,
 *   `nameOf(text)`, `search(text)` or null, `change(changes)` or null, `add(text)` and
 *   `remove(text)` (changes)
 */
export function textsSection(item, options) {
  const { title, label, field, texts, nameOf, search, change, add, remove } = options;
  if (!texts.length && !change) return null;
  const shown = texts.map((text) => {
    const name = nameOf(text);
    const found = { type: "button", class: "tag-name", title: t("Show images with {name}", { name }), on: { click: () => search?.(text) } };
    return h("li", { class: "tag" },
      search ? h("button", found, name) : h("span", { class: "tag-name" }, name),
      change && button(t("Remove {name}", { name }), "close", () => change(remove(text)), { class: "tag-remove" }),
    );
  });
  const input = h("input", {
    class: "field field-small", "aria-label": label, placeholder: label, maxlength: "170", autocomplete: "off",
  });
  const submit = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text) change(add(text));
  };
  const id = `item-${field.split(".").pop()}`;
  return h("section", { class: "item-section", "aria-labelledby": id },
    h("h3", { id }, title),
    texts.length > 0 && h("ul", { class: "tags", role: "list" }, ...shown),
    change && h("form", { class: "tag-form", on: { submit } }, input),
    change && undoOf(item, field, change),
  );
}
