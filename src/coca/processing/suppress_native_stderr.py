"""Warnings of those who decode images silenced, by any number of threads at once."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_readers = 0
_filters = ExitStack()


@contextmanager
def decoder_warnings_ignored() -> Iterator[None]:
    """Silence those who decode: harmless oddities must not depend on warning settings.

    Pillow's warning about decompression bombs is covered by our own, lower limit. Torchvision says
    from 0.29 on that its decoders will go; without them Pillow reads everything.

    The interpreter has one list of filters for all threads, so the first reader changes it and the
    last one restores it; each for itself, they would restore each other's.
    """
    global _readers
    with _lock:
        _readers += 1
        if _readers == 1:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("ignore", module=r"torchvision\.io\.")
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.close()


def _begin_anew() -> None:
    """A forked process has none of the readers that it was forked beside, nor their lock."""
    global _lock, _readers, _filters
    _lock, _readers, _filters = threading.Lock(), 0, ExitStack()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
