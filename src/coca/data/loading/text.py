"""From a sample's words to the one text that the model sees at this visit."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.base import NAMED_TEMPLATES, SourceConfig

# How labels become text where a recipe names no templates (CoCa, section 4.1).
LABEL_TEMPLATES = ("a photo of the {}",)


def templates_of(config: SourceConfig) -> tuple[str, ...]:
    """The sentences that a source puts its words into; none where its captions stand alone."""
    return _spelled_out(config.templates) or (LABEL_TEMPLATES if config.text == "labels" else ())


@cache
def _spelled_out(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Templates with each named set in full."""
    return tuple(
        text for template in templates for text in NAMED_TEMPLATES.get(template, (template,))
    )


class Words(NamedTuple):
    """What the model reads of a sample at one visit."""

    text: str
    asked: bool = False
    """Whether `text` asks something, and `answer` goes on from there."""
    answer: str = ""


def texts_of(sample: Sample, config: SourceConfig) -> tuple[list[str], list[str]]:
    """Every text that `sample_text` may draw of a sample, before templates; then every answer."""
    if config.text == "labels":
        return _filled(humanize_label(label) for label in sample.labels), []
    if config.text == "question":
        return _filled([sample.text]), _filled(sample.answers)
    return _filled(sample.captions), []


def sample_text(sample: Sample, config: SourceConfig, generator: torch.Generator) -> Words:
    """The words of the sample, drawn anew from `generator`.

    With `text: captions`, one of the captions. With `text: labels`, the names of all labels,
    shuffled and joined by commas, as the paper reads JFT: "a photo of the cat, animal". With `text:
    question`, what is asked, and one of the answers. The text is put into one of the templates.

    Raises:
        DataError: The sample has no such text (reason `"empty_caption"`), or it is no valid text
            (`"bad_text"`).
    """
    texts, answers = texts_of(sample, config)
    answer = _draw(answers, generator) if answers else ""
    if config.text == "labels":
        order = torch.randperm(len(texts), generator=generator).tolist()
        text = ", ".join(texts[place] for place in order)
    else:
        text = _draw(texts, generator) if texts else ""
    if not text:
        raise DataError(f"sample {sample.key} has no {config.text} to read", reason="empty_caption")
    try:
        (text + answer).encode()
    except UnicodeEncodeError as error:
        # JSON can spell what no text may hold, and the tokenizer would refuse the whole batch.
        raise DataError(
            f"a text of sample {sample.key} holds half a surrogate pair", reason="bad_text"
        ) from error
    templates = templates_of(config)
    shown = _draw(templates, generator).replace("{}", text) if templates else text
    return Words(shown, config.text == "question", answer)


def humanize_label(label: str) -> str:
    """A label as one would say it: names of folders and classes often hold underscores."""
    return label.replace("_", " ").strip()


def _filled(texts: Iterable[str]) -> list[str]:
    return [text for it in texts if (text := it.strip())]


def _draw(choices: tuple[str, ...] | list[str], generator: torch.Generator) -> str:
    if len(choices) == 1:
        return choices[0]
    return choices[int(torch.randint(len(choices), (), generator=generator))]
