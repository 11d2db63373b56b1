"""LRU cache of open files for threads: a file is closed after its last reader is done.

Reads are positional (`os.pread`), so threads share no file position.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from coca.core.files.regular_files import open_regular

MAX_OPEN_FILES = 64


class OpenFiles:
    """Cache of the `MAX_OPEN_FILES` most recently read local files, by path.

    A file that is replaced by a rename keeps its old content until it is evicted.
    """

    def __init__(self) -> None:
        self._start()

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file.descriptor)

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges of a file, each a half-open interval [start, end).

        Raises:
            OSError: The file is missing, not readable, or not a regular file.
            EOFError: The file ends before a range does; nothing is allocated for it then.
        """
        with self._used(path) as descriptor:
            size = os.fstat(descriptor).st_size
            for start, end in ranges:
                check_range(start, end, size)
            return [_read(descriptor, start, end) for start, end in ranges]

    @contextmanager
    def _used(self, path: str) -> Iterator[int]:
        """Yield the descriptor of a file, which stays open during the body."""
        file = self._take(path)
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.readers -= 1
                self._close_if_unused(file)

    def _take(self, path: str) -> "_OpenFile":
        if self._process != os.getpid():
            # A thread of the parent may have held the lock while the process was forked.
            self._start()
        with self._lock:
            if path in self._files:
                return self._touch(path)
        # Not under the lock: opening may wait for a network.
        opened = _OpenFile(open_regular(path))
        with self._lock:
            if path in self._files:
                os.close(opened.descriptor)
                return self._touch(path)
            self._files[path] = opened
            opened.readers += 1
            if len(self._files) > MAX_OPEN_FILES:
                _, oldest = self._files.popitem(last=False)
                oldest.is_kept = False
                self._close_if_unused(oldest)
            return opened

    def _touch(self, path: str) -> "_OpenFile":
        self._files.move_to_end(path)
        file = self._files[path]
        file.readers += 1
        return file

    def _close_if_unused(self, file: "_OpenFile") -> None:
        if not file.readers and not file.is_kept:
            os.close(file.descriptor)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._process = os.getpid()


class _OpenFile:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.readers = 0
        """Number of threads that currently read the file."""
        self.is_kept = True
        """Whether the file is in the cache; if not, its last reader closes it."""


def check_range(start: int, end: int, size: int) -> None:
    """Reject a range outside a file of this size, before memory is allocated.

    Raises:
        EOFError: The range begins before the file or ends after it.
    """
    if not 0 <= start <= end <= size:
        raise EOFError(f"bytes {start:,} to {end:,} are asked for, and it has {size:,}")


def _read(descriptor: int, start: int, end: int) -> bytes:
    pieces = []
    while start < end:
        # One call reads at most 2 GiB.
        piece = os.pread(descriptor, end - start, start)
        if not piece:
            raise EOFError(f"it ends at byte {start:,}, {end - start:,} before the range does")
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
