"""Memory of the process between requests, where the C library is glibc; else nothing happens."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
"""Parameter of mallopt in malloc.h of glibc."""


def share_arenas() -> None:
    """Let all threads share two arenas; it is called before any other thread allocates.

    Else each thread that called the model keeps the memory of its largest batch: 5 GB after reranks
    of 20 threads.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def free_memory() -> None:
    """Return free memory inside the arenas to the system."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
