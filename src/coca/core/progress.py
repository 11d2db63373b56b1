"""How long work tells how far it is, without knowing who shows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class Bar(Protocol):
    """Something that shows progress."""

    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        """Count finished pieces; `figures` are shown beside, such as `loss=2.31`."""
        ...


ProgressMaker: TypeAlias = Callable[[str, int | None], AbstractContextManager[Bar]]
"""Makes a bar from its title and the number of pieces (None: unknown)."""


class _SilentBar:
    def advance(self, count: int = 1, **figures: int | float | str) -> None:
        pass


@contextmanager
def silent(title: str, total: int | None) -> Iterator[Bar]:
    """A bar that shows nothing: the default of every function that takes a `ProgressMaker`."""
    yield _SilentBar()
