"""Thread-safe suppression of the warnings of image decoders."""

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
    """Ignore warnings of decoders, so that decoding does not depend on warning filters.

    Pillow's warning about decompression bombs is covered by our lower limit. From 0.29 on,
    torchvision warns that its decoders are deprecated; without them Pillow decodes everything.

    Warning filters are global to the interpreter. Therefore the first reader changes them and the
    last reader restores them; separate contexts in threads would restore each other's filters.
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


def _reset() -> None:
    """Reset the state in a forked process, which has no other readers and no held lock."""
    global _lock, _readers, _filters
    _lock, _readers, _filters = threading.Lock(), 0, ExitStack()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
