"""Digests of model files, cached in the user's cache until a file changes.

SHA-256 reads 0.5 GB/s on one core of a small machine, so 2.5 GB of weights would cost each command
5 s. A cached digest is used while device, inode, size, modification time and change time of the
file are the same. The change time cannot be set by programs, so an edit is never overlooked; damage
that the disk does not report is found at the first load only.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from coca.core.errors import StorageError
from coca.core.files.atomic import sha256_file, user_cache, write_atomic

CACHED_BYTES = 64 << 20
"""Files from this size on are cached; smaller files are read in 0.1 s."""
_SETTLED_S = 2.0
"""Age from which a change time is unique: file systems count in steps of up to 2 s."""


def cached_digest(path: Path, compute: Callable[[], str]) -> str:
    """Return the digest of a file, computed if it is small, new or changed.

    Args:
        path: The file; if it is missing, `compute` reports that.
        compute: Reads the file and returns its digest, as hex digits.
    """
    key = _state(path)
    if key is None:
        return compute()
    cached = user_cache() / "digests" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        return cached.read_text(encoding="ascii")
    except (OSError, ValueError):
        digest = compute()
    if _state(path) == key:
        # A cache that cannot be written costs time only.
        with contextlib.suppress(StorageError, OSError):
            write_atomic(cached, digest.encode())
    return digest


def files_fingerprint(folder: Path, paths: Iterable[Path]) -> str:
    """Compute the 24 hex digits that identify files by their contents and names.

    Args:
        folder: Folder to which the names are relative.
        paths: Files of the folder, in any order.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = cached_digest(path, partial(sha256_file, path))
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:24]


def _state(path: Path) -> str | None:
    """Return the file's identity, size and times; None if it is small, missing or too new."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if found.st_size < CACHED_BYTES or time.time() - found.st_ctime < _SETTLED_S:
        return None
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return f"{os.path.realpath(path)} {identity}"
