"""Safe opening of regular files: FIFOs, which may block forever, and devices are rejected."""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from coca.core.errors import DataError

MAX_IMAGE_BYTES = 512 << 20
"""Largest encoded image, bytes: 50 million pixels of 16-bit RGBA take 400 MB uncompressed."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | Path) -> int:
    """Open a regular file, or a link to one, and return its descriptor.

    Raises:
        OSError: The file is missing, not readable, or not a regular file. The latter is neither
            opened nor waited for.
    """
    _check(os.stat(path), path)
    # If the file is replaced meanwhile, O_NONBLOCK keeps a FIFO from blocking.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: str | Path) -> os.stat_result:
    """Return the `stat` result of a regular file, or of the target of a link.

    Raises:
        OSError: The file is missing, or not a regular file.
    """
    status = os.stat(path)
    _check(status, path)
    return status


def read_regular(path: str | Path, *, max_bytes: int | None = None) -> bytes:
    """Read a whole regular file.

    Args:
        path: Path of the file, or of a link to it.
        max_bytes: A larger file is rejected without reading it. None: any size.

    Raises:
        OSError: The file is missing, not readable, too large, or not a regular file.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is None:
            return file.read()
        content = file.read(size + 1) if size <= max_bytes else b""
        if len(content) != size:
            # The file grows, or is a file of `/proc`, whose reported size is 0.
            content += file.read(max(max_bytes + 1 - len(content), 0))
    if size > max_bytes or len(content) > max_bytes:
        large = max(size, len(content))
        raise OSError(
            errno.EFBIG, f"it has {large:,} bytes, and at most {max_bytes:,} are read", str(path)
        )
    return content


def check_within(path: str | Path, folders: Sequence[str | Path]) -> None:
    """Check that a file is inside one of some folders after all links in its path are resolved.

    Args:
        path: Path of a file, which may be missing.
        folders: Allowed folders, without links in their paths; empty: all files are allowed.

    Raises:
        DataError: It is outside of them (reason `"unreadable"`).
    """
    if folders and not any(Path(os.path.realpath(path)).is_relative_to(one) for one in folders):
        raise DataError(f"{path} is a link to a file outside its folder", reason="unreadable")


def _check(status: os.stat_result, path: str | Path) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {what}, not a regular file", str(path))
