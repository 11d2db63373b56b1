"""Progress bar protocol, independent of the display."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class Bar(Protocol):
    """A progress bar."""

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        """Advance by `count` finished items; `figures` are displayed next to it, as `loss=2.31`."""
        ...


ProgressMaker: TypeAlias = Callable[[str, int | None], AbstractContextManager[Bar]]
"""Factory of a progress bar from its title and the number of items (None: unknown)."""

ProgressOption: TypeAlias = ProgressMaker | bool
"""A factory of progress bars, True for `stderr_line`, or False for none."""

REDRAW_EVERY_S = 0.2


class _SilentBar:
    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        pass


@contextmanager
def silent(title: str, total: int | None) -> Iterator[Bar]:
    """Yield a bar without output, the default of functions that take a `ProgressMaker`."""
    yield _SilentBar()


@contextmanager
def stderr_line(title: str, total: int | None) -> Iterator[Bar]:
    """Show the progress of a script or notebook as one line on stderr, such as `captioning 3/9`."""
    bar = _LineBar(title, total)
    try:
        yield bar
    finally:
        bar.write(end="\n")


class _LineBar:
    def __init__(self, title: str, total: int | None) -> None:
        self._title, self._total, self._done, self._written_at = title, total, 0, 0.0

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        self._done += count
        if time.monotonic() - self._written_at >= REDRAW_EVERY_S:
            self.write()

    def write(self, end: str = "") -> None:
        of = "" if self._total is None else f"/{self._total:,}"
        sys.stderr.write(f"\r{self._title} {self._done:,}{of}{end}")
        sys.stderr.flush()
        self._written_at = time.monotonic()


def as_maker(progress: ProgressOption) -> ProgressMaker:
    """Return the factory of progress bars that an option selects."""
    if isinstance(progress, bool):
        return stderr_line if progress else silent
    return progress
