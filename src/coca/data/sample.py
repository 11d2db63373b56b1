"""Sample type: encoded images with text, labels and metadata, and reports of unusable ones.

It imports no torch: sources of images are also read by programs without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """An encoded image with its captions, labels, question, answers and metadata."""

    key: str
    """Identifies the sample within its source."""

    image: bytes = field(repr=False)
    """Content of the image file: JPEG, PNG, WebP, ..."""

    captions: tuple[str, ...] = ()
    """Sentences that each describe the whole image."""

    labels: tuple[str, ...] = ()
    """Class names, such as an object class, an action or an entailment verdict."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the record; values that JSON can hold."""

    text: str = ""
    """Question, hypothesis or statement about the image."""

    answers: tuple[str, ...] = ()
    """Answers of all annotators; an answer that several of them gave is repeated."""

    others: tuple[bytes, ...] = field(default=(), repr=False)
    """Further encoded images, in order: the second of a pair, or later frames of a video."""

    @property
    def images(self) -> tuple[bytes, ...]:
        """All encoded images of the sample: `image`, then `others`."""
        return (self.image, *self.others)


@dataclass(frozen=True)
class BadSample:
    """A report of a sample that could not be used."""

    key: str
    source: str
    row: int
    """Row number in the source; constant while the fingerprint of the source is."""

    reason: str
    """Short slug for counting, such as `"truncated"` or `"empty_caption"`."""

    detail: str
    """Full error message."""
