"""Text sampling: draw a caption, labels or question of a sample and apply a prompt template."""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.source import NAMED_TEMPLATES, SourceConfig

# Default template of labels (CoCa, section 4.1).
LABEL_TEMPLATES = ("a photo of the {}",)


def templates_of(config: SourceConfig) -> tuple[str, ...]:
    """Return the prompt templates of a source; empty if its text is used without a template."""
    return _expanded(config.templates) or (LABEL_TEMPLATES if config.text == "labels" else ())


@cache
def _expanded(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the names of template sets by their templates."""
    return tuple(
        text for template in templates for text in NAMED_TEMPLATES.get(template, (template,))
    )


class SampledText(NamedTuple):
    """Text of a sample at one visit, and the answer if the text is a question."""

    text: str
    is_question: bool = False
    """Whether `text` is a question and `answer` its completion."""
    answer: str = ""
    is_captioned: bool = True
    """Whether the text takes part in the captioning loss."""


def texts_of(sample: Sample, config: SourceConfig) -> tuple[list[str], list[str]]:
    """List all texts and all answers that `sample_text` may draw, without keywords or templates."""
    if config.text == "labels":
        return _filled(humanize_label(label) for label in sample.labels), []
    if config.text == "question":
        return _filled([sample.text]), _filled(sample.answers)
    return _filled(sample.captions), []


def keywords_of(sample: Sample, config: SourceConfig) -> list[str]:
    """List the keywords of a sample in `keyword_field`; empty without the field."""
    found = sample.metadata.get(config.keyword_field, ()) if config.keyword_field else ()
    texts = [found] if isinstance(found, str) else found
    is_list = isinstance(texts, list | tuple)
    return _filled(it for it in texts if isinstance(it, str)) if is_list else []


def sample_text(sample: Sample, config: SourceConfig, generator: torch.Generator) -> SampledText:
    """Sample a text of the sample and a prompt template with `generator`.

    `text: captions` draws one of the captions, or with a probability of `keyword_fraction` one of
    the keywords. `text: labels` shuffles all labels and joins them by
    commas, as the paper reads JFT: "a photo of the cat, animal". `text: question` takes the
    question and draws one of the answers. The text is inserted into one of the templates.
    """
    texts, answers = texts_of(sample, config)
    is_captioned = True
    answer = _draw(answers, generator) if answers else ""
    if config.text == "labels":
        order = torch.randperm(len(texts), generator=generator).tolist()
        text = ", ".join(texts[index] for index in order)
    else:
        keywords = keywords_of(sample, config)
        if keywords and float(torch.rand((), generator=generator)) < config.keyword_fraction:
            texts, is_captioned = keywords, config.keyword_captioning
        text = _draw(texts, generator) if texts else ""
    if not text:
        raise DataError(f"sample {sample.key} has no {config.text} to read", reason="empty_caption")
    try:
        (text + answer).encode()
    except UnicodeEncodeError as error:
        # JSON can encode lone surrogates, and the tokenizer would reject the whole batch.
        raise DataError(
            f"a text of sample {sample.key} contains a lone surrogate", reason="bad_text"
        ) from error
    templates = templates_of(config)
    prompt = _draw(templates, generator).replace("{}", text) if templates else text
    return SampledText(prompt, config.text == "question", answer, is_captioned)


def humanize_label(label: str) -> str:
    """Replace the underscores of a class name by spaces."""
    return label.replace("_", " ").strip()


def _filled(texts: Iterable[str]) -> list[str]:
    return [text for it in texts if (text := it.strip())]


def _draw(choices: tuple[str, ...] | list[str], generator: torch.Generator) -> str:
    if len(choices) == 1:
        return choices[0]
    return choices[int(torch.randint(len(choices), (), generator=generator))]
