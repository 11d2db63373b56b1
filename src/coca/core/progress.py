"""Progress bar protocol, independent of the display."""

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


class _SilentBar:
    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        pass


@contextmanager
def silent(title: str, total: int | None) -> Iterator[Bar]:
    """Yield a bar without output, the default of functions that take a `ProgressMaker`."""
    yield _SilentBar()
