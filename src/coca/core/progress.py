"""Progress bars: functions open them with `progress_bar`, and callers choose their display.

    with show_progress():
        vectors = model.embed_images(files)

No function takes a progress callback: the display is a context variable.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class Bar(Protocol):
    """A progress bar."""

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        """Advance by `count` finished items; `figures` are displayed next to it, as `loss=2.31`."""
        ...


ProgressMaker: TypeAlias = Callable[[str, int | None], AbstractContextManager[Bar]]
"""Factory of a progress bar from its title and the number of items (None: unknown)."""

REDRAW_EVERY_S = 0.2


class _SilentBar:
    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        pass


@contextmanager
def silent(title: str, total: int | None) -> Iterator[Bar]:
    """Yield a bar without output, the default."""
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


class _Display:
    def __init__(self, maker: ProgressMaker) -> None:
        self.maker = maker
        self.is_open = False


_display: ContextVar[_Display | None] = ContextVar("progress", default=None)


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Bar]:
    """Open a progress bar; it is silent inside another one, which counts whole batches.

    Args:
        title: Work that the bar shows, such as "captioning".
        total: Number of items; None if it is unknown.
    """
    display = _display.get()
    if display is None or display.is_open:
        yield _SilentBar()
        return
    display.is_open = True
    try:
        with display.maker(title, total) as bar:
            yield bar
    finally:
        display.is_open = False


@contextmanager
def show_progress(maker: ProgressMaker = stderr_line) -> Iterator[None]:
    """Show the progress of everything that is called in the block.

    Args:
        maker: Factory of the bars. Default: one line on stderr.
    """
    token = _display.set(_Display(maker))
    try:
        yield
    finally:
        _display.reset(token)


def progress_maker() -> ProgressMaker:
    """Return the factory in effect, for a long part of other work that shows bars of its own."""
    display = _display.get()
    return silent if display is None else display.maker
