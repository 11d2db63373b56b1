"""Inputs and results of every predictor: images, texts, captions and labels.

Dimensions: N samples, K labels, S side of the model's input (pixels), W words, h and w patches
along the sides.
"""

import logging
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from coca.core.config.execution import CERTAIN
from coca.core.errors import ConfigError, DataError
from coca.core.progress import progress_bar
from coca.metrics.classification import softmax
from coca.model.generation.generation_config import GeneratedSequence
from coca.processing.image_file import ImageInput

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Images in any format and texts, one or many.

SampleImages: TypeAlias = ImageInput | Sequence[ImageInput]
"""The image of a sample of a classification head, or its images in order."""

# Single inputs that are iterable: iterating them yields lines, bytes, rows or keys.
_NO_LIST = (str, bytes, bytearray, memoryview, Path, Image.Image, ndarray, IOBase, Mapping)


def as_images(images: ImageInput | Iterable[ImageInput]) -> Sequence[ImageInput]:
    """Normalize images to a sequence: wrap a single image, exhaust an iterator.

    A value that is not an image raises later, when it is read; that error names its type.
    """
    _refuse_table(images)
    # A tensor is iterable as well, and torch may be missing.
    is_tensor = type(images).__module__.partition(".")[0] == "torch"
    if isinstance(images, _NO_LIST) or is_tensor or not isinstance(images, Iterable):
        return [cast(ImageInput, images)]
    return cast(Sequence[ImageInput], images) if isinstance(images, Sequence) else list(images)


def _refuse_table(values: object) -> None:
    """Raise a `DataError` for a DataFrame, which iterates over its columns' names."""
    columns = getattr(values, "columns", None)
    if columns is not None:
        raise DataError(
            f"pass one column, such as table[{str(next(iter(columns), 'path'))!r}], instead of a "
            f"{type(values).__name__}",
            reason="unsupported",
        )


def as_texts(texts: str | Iterable[str]) -> Sequence[str]:
    """Normalize texts to a sequence: wrap a single text, exhaust an iterator."""
    if isinstance(texts, str):
        return [texts]
    _refuse_table(texts)
    if isinstance(texts, Mapping):
        raise DataError(
            "texts must be a str or a list of them, got a mapping: pass its keys or its values",
            reason="bad_text",
        )
    listed = list(texts) if isinstance(texts, Iterable) else [texts]
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise DataError(
                f"text {position} must be a str, got {type(text).__name__} ({text!r:.40})",
                reason="bad_text",
            )
    return listed


def as_labels(labels: Iterable[str]) -> Sequence[str]:
    """Normalize labels to a sequence; a text alone is refused, as it is rarely one label."""
    if isinstance(labels, str):
        names = [name.strip() for name in re.split("[,;|]", labels)]
        raise ConfigError(
            f"labels must be a list of names to choose from, such as {names!r}, got the text "
            f"{labels!r}"
        )
    return as_texts(labels)


def prompts_for(prompt: str | Iterable[str], count: int) -> Sequence[str]:
    """Return one prompt per image, from one text for all or one text each."""
    if isinstance(prompt, str):
        return [prompt] * count
    prompts = as_texts(prompt)
    if len(prompts) != count:
        raise ConfigError(
            f"{len(prompts)} prompts do not fit {count} images; give one for all or one each"
        )
    return prompts


# Repeated samples: each distinct image is encoded once.


def unique_samples(samples: Sequence[T]) -> tuple[list[T], list[list[int]]]:
    """Return the distinct samples in order of first occurrence, and all positions of each.

    Paths and encoded images are compared by value, opened images by identity.
    """
    positions: dict[Hashable, list[int]] = {}
    for position, sample in enumerate(samples):
        positions.setdefault(_key(sample), []).append(position)
    return [samples[found[0]] for found in positions.values()], [*positions.values()]


def expand_positions(
    positions: Sequence[Sequence[int]], size: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Expand a batch of distinct samples to all their positions, `size` positions at a time.

    Yields:
        Row in the batch and position in the output, for each position.
    """
    pairs = iter([(row, position) for row, found in enumerate(positions) for position in found])
    while part := list(islice(pairs, size)):
        yield [row for row, _ in part], [position for _, position in part]


def _key(sample: object) -> Hashable:
    if isinstance(sample, str | bytes | Path):
        return sample
    if isinstance(sample, list | tuple):
        return tuple(map(_key, sample))
    return id(sample)


# Captions with their scores, the result of both predictors.


@dataclass(frozen=True)
class SeenImages:
    """A batch of images as the decoder reads them."""

    tokens: Any
    """Image tokens, an array or a tensor of B x Q x C."""
    probabilities: Float[ndarray, "B K"] | None = None
    """Of the classes of the image encoder's own classifier, for the words of captions."""
    embeddings: Float[ndarray, "B E"] | None = None
    """In all dimensions, of length 1; None if nothing reads them."""

    def __getitem__(self, rows: Sequence[int]) -> "SeenImages":
        rest = (self.probabilities, self.embeddings)
        return SeenImages(self.tokens[rows], *(None if it is None else it[rows] for it in rest))


@dataclass(frozen=True)
class Caption:
    """A generated caption of an image, with its scores."""

    text: str
    """The prompt and the generated text. A caption that is only a name of a class has the usual
    name instead, so that it differs from `completion` and from `token_ids`."""
    completion: str
    """The generated text without the prompt: the answer if the prompt is a question."""
    score: float
    """Log-probability of the generated tokens, in nats; at most 0, which is certainty."""
    token_ids: tuple[int, ...] = ()
    """The generated tokens, without prompt and end token."""
    log_probabilities: tuple[float, ...] = ()
    """Summands of `score`, in nats: one per token, and one for the end token if it was reached."""
    others: tuple["Caption", ...] = ()
    """The next best captions, best first, if more than one was requested."""
    rank_score: float = 0.0
    """Key by which the captions of an image are sorted. In beam search it is the score, less the
    penalties of the logits processors, divided by (number of tokens) ** `length_penalty`. For
    samples it is the score."""
    certainty: float | None = None
    """Probability that the first noun is right, 0 to 1. None: unknown, since the model lacks nouns,
    the caption has a prompt, or it describes a clip. See `coca.predict.certainty`."""
    noun: str = ""
    """The most special noun that the image encoder's classifier is sure of, with its article; empty
    without one."""
    error: str = ""
    """Error message of an image that was skipped; its text is empty and its scores are NaN."""

    def certain(self, least: float = CERTAIN) -> str:
        """Return the text if its certainty is unknown or at least `least`, else the sure noun."""
        return self.text if self.certainty is None or self.certainty >= least else self.noun


_SPACES_BEFORE_MARKS = re.compile(r"(?<!\s)\s+(?=[.,;:!?](?:\s|$)|(?:n't|'(?:s|m|d|re|ve|ll))\b)")
_A_BEFORE_VOWEL = re.compile(
    # Not before "one" and "uniform", nor where "a" is a letter.
    r"\b([Aa])(?= [aeiou]\w)(?! (?:(?:uni(?![dmn])|eu|ewe|onc?e\b|one-|us[aeu]|ut[ei]|uk|ur[aeiou])"
    r"|(?:above|across|after|against|along|among|an|and|are|around|as|at|in|inside|into|is|of|off"
    r"|on|or|out|outside|over|under|up)\b))"
)


def with_marks_and_articles(text: str) -> str:
    """Join marks to the word before them, and write `an` before vowels.

    Models of Flickr8k write `a dog .` as its captions do, and `a orange` if they learned names.
    """
    return _A_BEFORE_VOWEL.sub(r"\1n", _SPACES_BEFORE_MARKS.sub("", text))


def caption_of(
    written: Sequence[GeneratedSequence],
    prompt: Sequence[int],
    decode: Callable[[Sequence[int]], str],
) -> Caption:
    """Decode the generated sequences of an image: the best, with the rest in `others`."""
    first, *others = (
        Caption(
            # Decoded together, since a word may span the boundary.
            with_marks_and_articles(decode([*prompt[1:], *one.token_ids])),
            with_marks_and_articles(decode(one.token_ids)),
            one.total,
            tuple(one.token_ids),
            tuple(one.log_probabilities),
            rank_score=one.rank,
        )
        for one in written
    )
    return replace(first, others=tuple(others))


def skipped_caption(error: Exception) -> Caption:
    """Return the caption of an image that was skipped."""
    return Caption("", "", math.nan, rank_score=math.nan, error=str(error))


# Labels with their probabilities, the result of classification on every runtime.


@dataclass(frozen=True)
class Prediction:
    """A label and its probability."""

    label: str
    probability: float
    """Softmax probability, 0 to 1; it sums to 1 over the candidate labels."""


def predictions(logits: Float[ndarray, "N K"], labels: Sequence[str]) -> list[list[Prediction]]:
    """Apply softmax and sort the labels of each sample, most probable first.

    A sample whose logits are NaN, one that was skipped, has no predictions.
    """
    skipped = np.isnan(logits).any(axis=1)
    ranked = iter(
        [Prediction(labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")]
        for row in softmax(logits[~skipped])
    )
    return [[] if is_skipped else next(ranked) for is_skipped in skipped]


# Unreadable images of a list: raise an error, or skip them with a warning.
#
# A skipped image keeps its position in the result, so that results and inputs stay aligned: its
# embedding and scores are NaN, its caption is empty and has the `error`, and it has no predictions.


OnError: TypeAlias = Literal["raise", "skip"]
"""`raise` at the first unreadable image, or `skip` unreadable images with a warning for each."""

BATCHES_AHEAD = 4
"""Batches computed at once; an unreadable image makes the readable part repeat."""


def with_skips(
    count: int,
    work: Callable[[Sequence[int]], Sequence[T]],
    *,
    check: Callable[[int], object],
    placeholder: Callable[[DataError], T],
    on_error: str,
    batch_size: int,
    title: str,
) -> list[T]:
    """Compute one outcome per image, in order."""
    if on_error == "raise":
        return list(work(range(count)))
    if on_error != "skip":
        raise ConfigError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    outcomes: list[T] = []
    size = BATCHES_AHEAD * batch_size
    with progress_bar(title, count) as bar:
        for start in range(0, count, size):
            part = range(start, min(start + size, count))
            outcomes += _skipping(part, work, check, placeholder)
            bar.advance(len(part))
    return outcomes


def _skipping(
    positions: Sequence[int],
    work: Callable[[Sequence[int]], Sequence[T]],
    check: Callable[[int], object],
    placeholder: Callable[[DataError], T],
) -> Sequence[T]:
    try:
        return work(positions)
    except DataError:
        faults: dict[int, DataError] = {}
        for position in positions:
            try:
                check(position)
            except DataError as error:
                faults[position] = error
                logger.warning("image %d is skipped: %s", position, error)
        if not faults:
            raise
    good = iter(work([it for it in positions if it not in faults]))
    return [placeholder(faults[it]) if it in faults else next(good) for it in positions]
