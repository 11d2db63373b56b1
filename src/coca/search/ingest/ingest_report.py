"""Report of an ingest run, with its rejected images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from coca.search.ingest.upsert_rules import Count


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
    """Path with the same bytes as an earlier path."""

    path: str
    of: str
    """Primary path of the record at that time."""


@runtime_checkable
class BadLog(Protocol):
    """Log of bad images, which aborts the run if there are too many."""

    def add(self, good: int, bad: Sequence[BadImage]) -> None:
        """Record the number of good images and the bad images since the last call."""
        ...


@dataclass(kw_only=True)
class IngestReport:
    """Counts of an ingest run; each image is counted once, in one of the first five fields."""

    added: int = 0
    """New records."""
    updated: int = 0
    """Records whose image, caption or metadata changed."""
    unchanged: int = 0
    duplicates: int = 0
    """Images whose bytes an earlier path already had."""
    copies: list[Copy] = field(default_factory=list, compare=False)
    """These images, each with the earlier path; not compared, as their number is."""
    bad: list[BadImage] = field(default_factory=list)
    removed: int = 0
    """Deleted records, whose files are missing; only with `prune`."""

    @property
    def good(self) -> int:
        """Number of usable images."""
        return self.added + self.updated + self.unchanged + self.duplicates

    def count(self, count: Count, path: str, *, of: str) -> None:
        """Count an image whose bytes a record already has; `of` is the record's primary path."""
        if count is Count.UNCHANGED:
            self.unchanged += 1
        elif count is Count.UPDATED:
            self.updated += 1
        else:
            self.duplicates += 1
            self.copies.append(Copy(path, of))

    def reject(self, path: str, reason: str, detail: str) -> None:
        """Count a rejected image."""
        # A file name may be invalid Unicode; the report must be valid.
        path, detail = (text.encode(errors="backslashreplace").decode() for text in (path, detail))
        self.bad.append(BadImage(path, reason, detail))
