"""What a report may show beside scores: cases with their images, classes, and what is confused.

Axes: N samples, C classes.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from PIL import Image

from coca.metrics.classification import confusion_matrix, per_class_accuracy
from coca.processing.image import ImageSource, decode

THUMBNAIL_PX = 144
MOST_CONFUSED = 30
"""Classes of a confusion matrix at most; of more, those that are most often mistaken."""


@dataclass(frozen=True)
class Example:
    """An image with lines of text, or the text alone."""

    lines: tuple[str, ...]
    """One below the other."""
    picture: bytes | None = field(default=None, repr=False)
    """From `thumbnail`."""
    right: bool = False
    """Whether it is what was looked for; it gets a mark."""


@dataclass(frozen=True)
class ImageRow:
    """Cases in a row, such as what a query found."""

    heading: str
    """What they have in common."""
    cases: tuple[Example, ...]
    """From the left."""
    lead: Example | None = None
    """The query before them, if it is an image."""


@dataclass(frozen=True)
class Confusion:
    """What was taken for what."""

    names: tuple[str, ...]
    """Of the classes."""
    counts: tuple[tuple[int, ...], ...]
    """Samples of each class (row) that were taken for each class (column)."""
    classes: int
    """How many there are in all, shown or not."""


@dataclass(frozen=True)
class Shown:
    """Everything that one task shows."""

    strips: tuple[ImageRow, ...] = ()
    """Best and worst cases, queries and their hits."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """Accuracy of each class, 0 to 1."""
    confusion: Confusion | None = None
    """Of a classifier."""


def thumbnail(image: ImageSource, size_px: int = THUMBNAIL_PX) -> bytes:
    """Gives the image as a small WebP file, at most `size_px` high and wide.

    Raises:
        DataError: It cannot be read.
    """
    picture = Image.fromarray(decode(image).permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def classes_shown(
    predicted: Int[ndarray, " N"], targets: Int[ndarray, " N"], names: Sequence[str]
) -> tuple[dict[str, float], Confusion]:
    """Gives the accuracy of each class that has samples, and what was taken for what."""
    accuracy = per_class_accuracy(predicted, targets, len(names))
    per_class = {
        name: float(share)
        for name, share in zip(names, accuracy, strict=True)
        if not np.isnan(share)
    }
    return per_class, _confusion(confusion_matrix(predicted, targets, len(names)), names)


def _confusion(counts: Int[ndarray, "C C"], names: Sequence[str]) -> Confusion:
    wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CONFUSED])
    part = counts[np.ix_(kept, kept)]
    return Confusion(
        tuple(names[place] for place in kept),
        tuple(tuple(int(count) for count in row) for row in part),
        len(names),
    )


def probabilities(logits: Float[ndarray, "N C"]) -> Float[ndarray, "N C"]:
    """The softmax of each row."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
