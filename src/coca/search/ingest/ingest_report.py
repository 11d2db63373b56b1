"""Report of an ingest run, with its rejected images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class BadImage:
    """Rejected image."""

    path: str
    reason: str
    """Short slug to count by, such as `"truncated"`."""
    detail: str
    """Explanation, one sentence."""


@dataclass(frozen=True)
class Copy:
    """New path with the same bytes as an earlier path."""

    path: str
    of: str
    """The earlier path."""


BadLog: TypeAlias = Callable[[int, Sequence[BadImage]], object]
"""Log of bad images: records the number of good images and the bad images since the last call, of
which there is at least one, and aborts the run if there are too many."""


@dataclass(kw_only=True)
class IngestReport:
    """Counts of an ingest run; each image is counted once, in one of the first five fields."""

    added: int = 0
    """New records."""
    updated: int = 0
    """Records whose image, path, caption or metadata changed."""
    unchanged: int = 0
    duplicates: int = 0
    """New records of bytes that an earlier record has."""
    copies: list[Copy] = field(default_factory=list, compare=False)
    """These records, each with the earlier path; not compared, as their number is."""
    bad: list[BadImage] = field(default_factory=list)
    removed: int = 0
    """Deleted records, whose files are missing; only with `prune`."""

    missing: int = field(default=0, compare=False)
    """Records whose files are missing in the sources, and which stay; only without `prune`."""

    @property
    def good(self) -> int:
        """Number of usable images."""
        return self.added + self.updated + self.unchanged + self.duplicates

    def reject(self, path: str, reason: str, detail: str) -> None:
        """Count a rejected image."""
        # A file name may be invalid Unicode; the report must be valid.
        path, detail = (text.encode(errors="backslashreplace").decode() for text in (path, detail))
        self.bad.append(BadImage(path, reason, detail))
