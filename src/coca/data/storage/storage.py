"""Uniform access to local and remote files by byte range, with retries and a cache of open files.

Reads are positional (`os.pread`), so threads share no file position.
"""

import errno
import fnmatch
import io
import logging
import os
import re
import tarfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from coca.core.errors import DataError
from coca.core.files.local_files import check_regular, open_regular, read_regular
from coca.data.storage.remote import (
    WEB,
    Range,
    RemoteFolder,
    check_fork,
    open_folder,
    split_url,
)

# LRU cache of open files for threads: a file is closed after its last reader is done.


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
        """Read byte ranges of a file, each a half-open interval [start, end)."""
        file = self._take(path)
        try:
            size = os.fstat(file.descriptor).st_size
            for start, end in ranges:
                # Before memory is allocated.
                if not 0 <= start <= end <= size:
                    raise EOFError(f"bytes {start:,} to {end:,} are asked for, and it has {size:,}")
            return [_read(file.descriptor, start, end) for start, end in ranges]
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


# Uniform access to local and remote files by byte range, with retries.


logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_WAITS_S = (0.1, 0.5, 2.0)
STREAM_BUFFER_BYTES = 8 << 20
SKIP_BUFFER_BYTES = 64 << 10
"""Bytes of a request for a header: samples have several small files behind each other."""
SKIP_FROM_BYTES = 2 << 20
"""Distance of two headers from which a request for each is faster than reading all bytes between
them, at 40 ms a request and 50 MB/s."""
MAX_FOLDERS = 256
"""Maximum number of remote folders, each with its connections, that are kept open."""
MAX_BLOCKS = 256
"""Maximum number of blocks of remote files that are kept in memory."""


def is_remote(path: str) -> bool:
    """Return whether the path is a URL."""
    return "://" in path


def full_path(path: str) -> str:
    """Return the absolute path; a URL is unchanged."""
    return path if is_remote(path) else os.path.abspath(path)


class Storage:
    """Reader of files by path or URL. Handles are opened lazily in each process.

    The class is thread-safe. Local files must be regular: FIFOs and devices are rejected.
    """

    def __init__(self) -> None:
        self._open_files = OpenFiles()
        # Bounded, since URLs with a query have a store each.
        self._open_folder = lru_cache(MAX_FOLDERS)(open_folder)
        # Not of a method, which would keep this reader and its open files.
        self.read_block = lru_cache(MAX_BLOCKS)(partial(_read_block, self._open_folder))
        """Read one byte range of a file that does not change; the last ranges stay in memory."""

    def __reduce__(self) -> tuple[object, ...]:
        # Handles are not valid in another process.
        return (Storage, ())

    def size(self, path: str) -> int:
        """Return the size of a file, bytes."""
        return int(self.state(path)["bytes"])

    def state(self, path: str) -> dict[str, int | str]:
        """Return the identity of a file's content without reading it, to detect changes.

        Returns:
            `bytes`; for a local file also `mtime_ns`, `ctime_ns` and `inode`; for a remote file
            also `etag`, or else `modified`, if its store has them.
        """
        if is_remote(path):
            folder, name = _located(self._open_folder, path)
            return _retried(path, lambda: folder.state(name))
        with _local_errors(path):
            status = check_regular(path)
        return {
            "bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
            "inode": status.st_ino,
        }

    def read(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Read byte ranges of a file."""
        if is_remote(path):
            return _read_remote(self._open_folder, path, ranges)
        with _local_errors(path):
            return self._open_files.read(path, ranges)

    def states(self, paths: Sequence[str]) -> dict[str, dict[str, int | str]]:
        """Return the `state` of each file that exists; folders of object stores are listed.

        Files of web servers, which cannot be listed, are left out.
        """
        found: dict[str, dict[str, int | str]] = {}
        listed: dict[str, dict[str, dict[str, int | str]]] = {}
        for path in paths:
            parent, _, name = path.rpartition("/")
            if is_remote(path) and path.partition("://")[0] not in WEB:
                if parent not in listed:
                    listed[parent] = _retried(path, _located(self._open_folder, path)[0].states)
                found |= {path: state} if (state := listed[parent].get(name)) else {}
            elif not is_remote(path):
                with suppress(DataError):
                    found[path] = self.state(path)
        return found

    def read_all(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """Read a whole file."""
        if is_remote(path):
            size = self.size(path)
            if max_bytes is not None and size > max_bytes:
                raise DataError(
                    f"{path} has {size:,} bytes, and at most {max_bytes:,} are read",
                    reason="too_large",
                )
            return self.read(path, [(0, size)])[0]
        with _local_errors(path):
            return read_regular(path, max_bytes=max_bytes)

    def write(self, url: str, content: bytes) -> None:
        """Write a remote file as a whole."""
        folder, name = _located(self._open_folder, url)
        _retried(url, lambda: folder.write(name, content), done="written")

    def open(self, path: str, *, skips: bool = False) -> io.BufferedReader:
        """Open a file as a stream for sequential reading.

        With `skips`, the reader seeks past most of the bytes: of a remote file, requests are as
        large as the distance between two reads suggests.
        """
        if is_remote(path) and skips:
            return io.BufferedReader(_SkippingStream(self, path), tarfile.BLOCKSIZE)
        if is_remote(path):
            return io.BufferedReader(_RemoteStream(self, path), STREAM_BUFFER_BYTES)
        with _local_errors(path):
            return io.BufferedReader(io.FileIO(open_regular(path)), STREAM_BUFFER_BYTES)

    def find(
        self, patterns: Sequence[str], *, suffix: str, allow_overlap: bool = False
    ) -> list[str]:
        """Expand glob patterns to files, sorted by name for each pattern."""
        # Full path -> path as given.
        found: dict[str, str] = {}
        for pattern in patterns:
            for path in expand_braces(pattern):
                matches = self._match(path, suffix)
                if not matches:
                    raise DataError(f"no {suffix} file is found at {path}", reason="missing")
                for match in matches:
                    if full_path(match) in found and not allow_overlap:
                        raise DataError(
                            f"{match} is named twice by {', '.join(patterns)}", reason="duplicate"
                        )
                    found.setdefault(full_path(match), match)
        return list(found.values())

    def _match(self, path: str, suffix: str) -> list[str]:
        if is_remote(path):
            folder, name = _located(self._open_folder, path)
            if "*" not in name:
                return [path]
            parent = path.rpartition("/")[0]
            return [f"{parent}/{match}" for match in _retried(path, lambda: folder.match(name))]
        local = Path(path)
        if local.is_dir():
            return _files(local, f"*{suffix}")
        if "*" in path:
            # From the first folder without a pattern, to support absolute and relative paths.
            fixed = next(parent for parent in local.parents if "*" not in str(parent))
            return _files(fixed, str(local.relative_to(fixed)))
        return [path] if local.exists() else []


def _located(open_folder: Callable[[str], RemoteFolder], url: str) -> tuple[RemoteFolder, str]:
    check_fork(url)
    parent, name = split_url(url)
    return open_folder(parent), name


def matches(path: str, pattern: str) -> bool:
    """Return whether a path matches a pattern without braces, as in `Storage.find`."""
    names, parts = path.split("/"), pattern.split("/")
    if "**" in parts:
        return fnmatch.fnmatchcase(path, pattern)
    # Component by component, since `*` does not match `/`.
    return len(names) == len(parts) and all(map(fnmatch.fnmatchcase, names, parts))


def _files(folder: Path, pattern: str) -> list[str]:
    """List the files that match a pattern, sorted, without folders such as `old.tar`."""
    return sorted(str(file) for file in folder.glob(pattern) if not file.is_dir())


def expand_braces(pattern: str) -> list[str]:
    """Expand braces as a shell does: `{000..127}`, `{a,b}`.

    Other braces are unchanged.
    """
    before, opened, rest = pattern.partition("{")
    inside, closed, after = rest.partition("}")
    if not opened or not closed:
        return [pattern]
    first, dots, last = inside.partition("..")
    if dots and first.isdigit() and last.isdigit():
        width = len(first) if first.startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    elif "," in inside:
        choices = inside.split(",")
    else:
        choices = ["{" + inside + "}"]
    return [before + choice + tail for choice in choices for tail in expand_braces(after)]


@contextmanager
def _local_errors(path: str) -> Iterator[None]:
    """Convert `OSError` of a local file to `DataError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", reason="missing") from error
    except OSError as error:
        problem = error.strerror or error
        reason = "too_large" if error.errno == errno.EFBIG else "unreadable"
        raise DataError(f"{path} cannot be read: {problem}", reason=reason) from error
    except ValueError as error:  # a NUL in a name
        raise DataError(f"{path!r} names no file: {error}", reason="unreadable") from error
    except EOFError as error:
        raise DataError(f"{path} is truncated: {error}", reason="truncated") from error


def _read_remote(
    open_folder: Callable[[str], RemoteFolder], path: str, ranges: Sequence[Range]
) -> list[bytes]:
    folder, name = _located(open_folder, path)
    return _retried(path, lambda: _whole(folder.read(name, ranges), ranges))


def _read_block(
    open_folder: Callable[[str], RemoteFolder], path: str, start: int, end: int
) -> bytes:
    return _read_remote(open_folder, path, [(start, end)])[0]


def _whole(parts: list[bytes], ranges: Sequence[Range]) -> list[bytes]:
    for part, (start, end) in zip(parts, ranges, strict=True):
        if len(part) != end - start:
            raise EOFError(f"{len(part):,} of {end - start:,} bytes came from byte {start:,} on")
    return parts


def _retried(path: str, action: Callable[[], T], *, done: str = "read") -> T:
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            return action()
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing", reason="missing") from error
        except Exception as error:
            # Each kind of store raises its own errors, without a common base class.
            if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
                code = re.search(r"<Code>(\w+)</Code>", str(error))
                raise DataError(
                    f"{path} cannot be {done}: the server refuses access"
                    f"{f' ({code[1]})' if code else ''}; check that the credentials in the "
                    f"environment have not expired and permit that it is {done}",
                    reason="refused",
                ) from error
            what = str(error).partition("\n")[0]
            if wait_s is None:
                raise DataError(f"{path} cannot be {done}: {what}", reason="unreachable") from error
            logger.info("%s: %s; trying again in %s s", path, what, wait_s)
            time.sleep(wait_s)
    raise AssertionError("the last attempt returns or raises")


class _RemoteStream(io.RawIOBase):
    """Raw stream of a remote file, with one range request per read."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._size = storage.size(path)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        (part,) = self._storage.read(self._path, [(self._position, end)])
        buffer[: len(part)] = part
        self._position = end
        return len(part)


class _SkippingStream(_RemoteStream):
    """Raw stream of a remote file for a reader of small parts, which are close or far apart.

    Close parts are read with all bytes between them, far parts with a request for each.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        super().__init__(storage, path)
        self._start, self._window = 0, b""
        self._last = -SKIP_FROM_BYTES
        """End of the last part that was read."""

    def readinto(self, buffer: Any) -> int:
        offset = self._position - self._start
        if not 0 <= offset < len(self._window):
            is_close = abs(self._position - self._last) < SKIP_FROM_BYTES
            size = STREAM_BUFFER_BYTES if is_close else SKIP_BUFFER_BYTES
            end = min(self._position + max(size, len(buffer)), self._size)
            if end <= self._position:
                return 0
            (self._window,) = self._storage.read(self._path, [(self._position, end)])
            self._start, offset = self._position, 0
        part = self._window[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._position = self._last = self._position + len(part)
        return len(part)
