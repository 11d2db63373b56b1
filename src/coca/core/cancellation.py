"""Cancellation: long work ends where the request that needs it has timed out or was given up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None]] = ContextVar("cancellation", default=lambda: None)


@contextmanager
def cancelled_by(check: Callable[[], None]) -> Iterator[None]:
    """Let work of this context, in its threads as well, end where `check` raises an error."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def check_cancelled() -> None:
    """Raise the error of the caller if it no longer waits; work calls this between its parts."""
    _check.get()()
