// Question box of an item: answers with their probabilities.

import { api } from "./api.js";
import { button, h } from "./dom.js";
import { t } from "./language.js";
import { announce, report } from "./notices.js";

const LIMIT = 3;

/** Build the question box of an item. */
export function askPanel(item, collection) {
  const input = h("input", {
    class: "field", id: "question", placeholder: t("What color is it?"), maxlength: "4096",
    autocomplete: "off", enterkeyhint: "send",
  });
  const answers = h("ol", { class: "answers", role: "list", "aria-label": t("Answers") });
  const ask = button(t("Ask"), null, () => {}, { text: true, type: "submit" });
  const form = h("form", {
    class: "ask",
    on: {
      submit: async (event) => {
        event.preventDefault();
        const question = input.value.trim();
        if (!question) return;
        ask.disabled = true;
        try {
          const body = { id: item.id, question, limit: LIMIT };
          if (collection) body.collection = collection;
          const response = await api.answer(body);
          answers.replaceChildren(...response.answers.map(answerRow));
          announce(t("Answer: {answer}", { answer: response.answers[0]?.label ?? t("none") }));
        } catch (error) {
          report(error);
        } finally {
          ask.disabled = false;
        }
      },
    },
  }, input, ask);
  return h(
    "section",
    { class: "item-section" },
    h("h3", {}, h("label", { for: "question" }, t("Ask about this image"))),
    form,
    answers,
  );
}

function answerRow({ label, probability }) {
  const percent = Math.round(probability * 100);
  const bar = h("meter", { min: 0, max: 1, value: probability, "aria-label": `${label}: ${percent} %` });
  return h("li", {}, h("span", { class: "answer" }, label), bar, h("span", { class: "hint" }, `${percent} %`));
}
