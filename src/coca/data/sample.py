"""Sample type: encoded images with text, labels and metadata, and the log of unusable ones.

It imports no torch: sources of images are also read by programs without it, such as `coca index`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.files.atomic import append_line


@dataclass(frozen=True)
class Sample:
    """An encoded image with its captions, labels, question, answers and metadata."""

    key: str
    """Identifies the sample within its source."""

    image: bytes = field(repr=False)
    """Content of the image file: JPEG, PNG, WebP, ..."""

    captions: tuple[str, ...] = ()
    """Sentences that each describe the whole image; blank ones are left out."""

    labels: tuple[str, ...] = ()
    """Class names, such as an object class, an action or an entailment verdict; blank ones are left
    out."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the record; values that JSON can hold."""

    text: str = ""
    """Question, hypothesis or statement about the image."""

    answers: tuple[str, ...] = ()
    """Answers of all annotators; an answer that several of them gave is repeated."""

    others: tuple[bytes, ...] = field(default=(), repr=False)
    """Further encoded images, in order: the second of a pair, or later frames of a video."""

    def __post_init__(self) -> None:
        # An empty file or cell is not a caption: it would be a query, a reference or a class.
        for name in ("captions", "labels"):
            texts = getattr(self, name)
            if not all(map(str.strip, texts)):
                object.__setattr__(self, name, tuple(text for text in texts if text.strip()))

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


# Minimum denominator of the bad fraction, so that one bad image among the first hundred does not
# stop a run that allows 1 % of them.
MIN_SEEN = 1000


class BadSampleLog:
    """Counter of bad samples that also lists each sample once in a JSON-lines file.

    Args:
        path: The JSON-lines file; samples already in it are not added again. None: no file.
        max_bad_fraction: Largest fraction of bad samples among those seen, 0 to 1.
    """

    def __init__(self, path: Path | None, max_bad_fraction: float) -> None:
        self.path = path
        self.max_bad_fraction = max_bad_fraction
        self.counts: Counter[str] = Counter()
        """Number of bad samples by reason."""
        self._listed = _listed(path) if path is not None and path.exists() else set()
        self._seen = 0

    def add(self, good: int, bad: Sequence[BadSample]) -> None:
        """Count the good samples of a batch and log those that it replaced."""
        self._seen += good + len(bad)
        self.counts.update(sample.reason for sample in bad)
        for sample in bad:
            row = (sample.source, sample.row)
            if self.path is not None and row not in self._listed:
                append_line(self.path, json.dumps(asdict(sample)))
                self._listed.add(row)
        total = self.counts.total()
        if total > self.max_bad_fraction * max(self._seen, MIN_SEEN):
            raise DataError(
                f"{total:,} of {self._seen:,} samples are bad, more than max_bad_fraction "
                f"{self.max_bad_fraction:g} allows: {self.summary()}",
                reason="too_many_bad",
            )

    def summary(self) -> str:
        """Format the counts by reason, with the path of the list."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        return f"{reasons} (listed in {self.path})" if self.path is not None else reasons


def _listed(path: Path) -> set[tuple[str, int]]:
    found = set()
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            found.add((entry["source"], entry["row"]))
        except (ValueError, TypeError, KeyError):
            # An incomplete line of a run that was killed while it wrote.
            continue
    return found
