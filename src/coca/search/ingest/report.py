"""What a filling did, and what it could not use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class BadPicture:
    """An image that was left out."""

    path: str
    reason: str
    """A short slug to count by, such as `"truncated"`."""
    detail: str
    """A sentence."""


@dataclass(frozen=True)
class Copy:
    """A path with the bytes of an image that another path had brought."""

    path: str
    of: str
    """The path that led the record until then."""


@runtime_checkable
class BadLog(Protocol):
    """Keeps the list of bad images, and says when there are too many."""

    def add(self, good: int, bad: Sequence[BadPicture]) -> None:
        """Take note of how many images were good, and which were bad, since the last call.

        Raises:
            DataError: Too many are bad.
        """
        ...


@dataclass(kw_only=True)
class IngestReport:
    """What a run did; every image it met is counted once, under one of the first five."""

    added: int = 0
    """New records."""
    updated: int = 0
    """Records whose image, caption or metadata changed."""
    unchanged: int = 0
    duplicates: int = 0
    """Pictures that another path had already brought."""
    copies: list[Copy] = field(default_factory=list, compare=False)
    """These images, each with the path that had brought it; not compared, as their number is."""
    bad: list[BadPicture] = field(default_factory=list)
    removed: int = 0
    """Records whose files are gone; only with `prune`."""

    @property
    def good(self) -> int:
        """Pictures that could be used."""
        return self.added + self.updated + self.unchanged + self.duplicates

    def repeat(self, path: str, of: str) -> None:
        """Count an image that another path had already brought."""
        self.duplicates += 1
        self.copies.append(Copy(path, of))

    def reject(self, path: str, reason: str, detail: str) -> None:
        """Count an image that was left out."""
        # A file name need not be text; what is reported must be.
        path, detail = (text.encode(errors="backslashreplace").decode() for text in (path, detail))
        self.bad.append(BadPicture(path, reason, detail))
