"""Pillow's warnings silenced while pictures are read, by any number of threads at once."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_readers = 0
_filters = ExitStack()


@contextmanager
def pillow_warnings_ignored() -> Iterator[None]:
    """Silence Pillow alone: harmless oddities of metadata must not depend on warning settings.

    Its warning about decompression bombs is covered by our own, lower limit. The interpreter has
    one list of filters for all threads, so the first reader changes it and the last one restores
    it; each for itself, they would restore each other's.
    """
    global _readers
    with _lock:
        _readers += 1
        if _readers == 1:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.close()
