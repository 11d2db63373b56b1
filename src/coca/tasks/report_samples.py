"""Samples for reports: examples with images, per-class accuracy, confusion matrix.

Axes: N samples, C classes.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from PIL import Image

from coca.metrics.classification import confusion_matrix, per_class_accuracy
from coca.processing.image import decode
from coca.runtime.image_file import ImageSource

THUMBNAIL_PX = 144
WIDE_LINE = 32
"""Length of a line, in characters, above which the examples of a row are wider."""
MAX_CLASSES = 30
"""Maximum number of classes in a confusion matrix; the most confused classes are kept."""


@dataclass(frozen=True)
class Example:
    """An image with lines of text, or the text alone."""

    lines: tuple[str, ...]
    """Lines of text below the image."""
    image: ImageSource | None = field(default=None, repr=False)
    """The image in any form that `decode` reads, or None. Tasks store a `thumbnail`."""
    correct: bool = False
    """Whether the model was correct; the report marks such examples."""


@dataclass(frozen=True)
class ImageRow:
    """A row of examples, such as the hits of a query."""

    heading: str
    """Heading of the row."""
    examples: tuple[Example, ...]
    """Examples, from left to right."""
    lead: Example | None = None
    """The query image, placed first, or None."""

    @property
    def wide(self) -> bool:
        """Whether the examples have sentences, which need more width."""
        return any(len(line) > WIDE_LINE for example in self.examples for line in example.lines)


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of a classifier."""

    names: tuple[str, ...]
    """Names of the classes in the matrix."""
    counts: tuple[tuple[int, ...], ...]
    """Number of samples of each true class (row) predicted as each class (column)."""
    classes: int
    """Total number of classes, in the matrix or not."""


@dataclass(frozen=True)
class ReportSamples:
    """Samples and per-class results of one task, for the report."""

    rows: tuple[ImageRow, ...] = ()
    """Best and worst examples, or queries with their hits."""
    per_class: Mapping[str, float] = field(default_factory=dict)
    """Accuracy of each class, 0 to 1."""
    confusion: Confusion | None = None
    """Confusion matrix, for classification tasks."""


def thumbnail(image: ImageSource, size_px: int = THUMBNAIL_PX) -> bytes:
    """Encode an image as a WebP thumbnail of at most `size_px` x `size_px` pixels.

    Raises:
        DataError: The image cannot be read.
    """
    small = Image.fromarray(decode(image).permute(1, 2, 0).contiguous().numpy())
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def per_class_results(
    predicted: Int[ndarray, " N"], targets: Int[ndarray, " N"], names: Sequence[str]
) -> tuple[dict[str, float], Confusion]:
    """Compute the accuracy of each class that has samples, and the confusion matrix."""
    accuracy = per_class_accuracy(predicted, targets, len(names))
    per_class = {
        name: float(share)
        for name, share in zip(names, accuracy, strict=True)
        if not np.isnan(share)
    }
    return per_class, _confusion(confusion_matrix(predicted, targets, len(names)), names)


def _confusion(counts: Int[ndarray, "C C"], names: Sequence[str]) -> Confusion:
    wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-wrong, kind="stable")[:MAX_CLASSES])
    part = counts[np.ix_(kept, kept)]
    return Confusion(
        tuple(names[index] for index in kept),
        tuple(tuple(int(count) for count in row) for row in part),
        len(names),
    )
