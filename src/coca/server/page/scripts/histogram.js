// Date histogram: a bar per interval, and the first and last day of the filter.

import { h } from "./dom.js";
import { count, t } from "./language.js";

const dayOf = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);

/**
 * Build the histogram of a facets response.
 * @param {object} dates histogram of the response
 * @param {{from: string, to: string}} chosen days, empty without a filter
 * @param {function({from, to})} onChoose
 */
export function histogram(dates, chosen, onChoose) {
  const buckets = dates?.buckets ?? [];
  const most = Math.max(1, ...buckets.map((bucket) => bucket.count));
  const bars = buckets.map((bucket) => {
    // The filter's last day is inclusive, a bucket's end is not.
    const range = { from: dayOf(bucket.start), to: dayOf(bucket.end - 1) };
    const only = chosen.from === range.from && chosen.to === range.to;
    const bar = h("span", { class: "bar" });
    bar.style.height = `${Math.max(4, (bucket.count / most) * 100)}%`;
    return h(
      "button",
      {
        type: "button",
        class: "bar-button",
        "aria-pressed": String(only),
        "aria-label": `${bucket.label}: ${count(bucket.count, "image")}`,
        title: `${bucket.label}: ${count(bucket.count, "image")}`,
        on: {
          click: (event) => {
            if (event.shiftKey && chosen.from) onChoose(widened(chosen, range));
            else onChoose(only ? { from: "", to: "" } : range);
          },
        },
      },
      bar,
    );
  });
  const field = (name, label) => {
    const input = h("input", {
      class: "field field-small", type: "date", id: `date-${name}`, value: chosen[name],
      on: { change: () => onChoose({ from: chosen.from, to: chosen.to, [name]: input.value }) },
    });
    return h("label", { class: "date-field" }, h("span", {}, label), input);
  };
  return h(
    "div",
    {},
    bars.length > 0 && h("div", { class: "histogram" }, ...bars),
    bars.length > 1 && h(
      "p",
      { class: "histogram-ends", "aria-hidden": "true" },
      h("span", {}, buckets[0].label),
      h("span", {}, buckets.at(-1).label),
    ),
    h("div", { class: "date-fields" }, field("from", t("From")), field("to", t("To"))),
    dates?.unknown > 0 && h("p", { class: "hint" }, t("{images} without a date", { images: count(dates.unknown, "image") })),
  );
}

function widened(chosen, range) {
  return {
    from: chosen.from < range.from ? chosen.from : range.from,
    to: chosen.to > range.to ? chosen.to : range.to,
  };
}
