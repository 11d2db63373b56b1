"""From a sample's words to the one text that the model sees at this visit."""

from functools import cache
from typing import NamedTuple

import torch

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources import NAMED_TEMPLATES, SourceConfig

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


def draw_words(sample: Sample, config: SourceConfig, generator: torch.Generator) -> Words:
    """The words of the sample, drawn anew from `generator`.

    With `text: captions`, one of the captions. With `text: labels`, the names of all labels,
    shuffled and joined by commas, as the paper reads JFT: "a photo of the cat, animal". With `text:
    question`, what is asked, and one of the answers. The text is put into one of the templates.

    Raises:
        DataError: The sample has no such text (reason `"empty_caption"`), or it is no valid text
            (`"bad_text"`).
    """
    answer = ""
    if config.text == "question":
        text = sample.text.strip()
        answers = [said for answer in sample.answers if (said := answer.strip())]
        answer = _draw(answers, generator) if answers else ""
    elif config.text == "labels":
        names = [name for label in sample.labels if (name := spoken(label))]
        order = torch.randperm(len(names), generator=generator).tolist()
        text = ", ".join(names[place] for place in order)
    else:
        captions = [text for caption in sample.captions if (text := caption.strip())]
        text = _draw(captions, generator) if captions else ""
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


def spoken(label: str) -> str:
    """A label as one would say it: names of folders and classes often hold underscores."""
    return label.replace("_", " ").strip()


def _draw(choices: tuple[str, ...] | list[str], generator: torch.Generator) -> str:
    if len(choices) == 1:
        return choices[0]
    return choices[int(torch.randint(len(choices), (), generator=generator))]
