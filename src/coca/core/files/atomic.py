"""Atomic, crash-safe writes of files and folders, appends to shared logs, and digests of files."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from coca.core.errors import ModelError, StorageError


def user_cache() -> Path:
    """Return the cache folder: `coca` in XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coca"


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old or the new content, never a part.

    Missing parent folders are created.
    """
    path = Path(path)
    # In the folder of the target, since only a rename within one file system is atomic.
    unfinished = path.with_name(f".incomplete-{path.name}-{uuid.uuid4().hex[:8]}")
    with _storage_errors(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            _sync_folder(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder atomically: it appears under its name only when it is complete.

    The body writes to a folder `.incomplete-NAME` next to the target. If the body raises,
    that folder is removed and the target is unchanged. An existing folder at `path` is replaced; a
    crash between the two renames leaves it as `.replaced-NAME`. Only one writer at a time is
    supported.

    Yields:
        The folder to write to.
    """
    path = Path(path)
    unfinished = path.with_name(f".incomplete-{path.name}")
    with _storage_errors(path, "written"):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(None, "a file of that name is in the way", str(path))
        # Left by a killed run.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    try:
        with _storage_errors(path, "written", within=unfinished):
            yield unfinished
        with _storage_errors(path, "written"):
            _sync_tree(unfinished)
            _put_in_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def append_line(path: str | Path, text: str) -> None:
    r"""Append one line to a log that several processes may write; `text` has no `\n`.

    An incomplete line of a killed writer is terminated first, so that it corrupts no other line.
    """
    assert "\n" not in text, "a line of a log cannot contain a line break"
    path = Path(path)
    with _storage_errors(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text
            line = text.encode() + b"\n"
            while line:  # one call, so one atomic append, unless the disk is full
                line = line[file.write(line) :]


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON-serializable value to a file, indented; see `write_atomic`."""
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file from an untrusted source.

    Raises:
        OSError: The file cannot be read.
        ValueError: The content is not JSON, or nested so deeply that parsing overflows the stack.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_model_json(path: str | Path, *, missing: str = "") -> Any:
    """Read a JSON file of a model folder."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        if missing and isinstance(error, FileNotFoundError):
            raise ModelError(missing) from None
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None


def sha256_file(path: str | Path) -> str:
    """Compute the SHA-256 of a file as 64 hex digits, without reading it into memory at once."""
    with _storage_errors(Path(path), "read"), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _storage_errors(path: Path, done: str, *, within: Path | None = None) -> Iterator[None]:
    """Convert `OSError` to `StorageError`; with `within`, only errors about that path."""
    try:
        yield
    except OSError as error:
        # ENOSPC names no file; errors about other files of the body pass through.
        ours = within is None or error.filename is None or within.name in str(error.filename)
        if not ours:
            raise
        raise StorageError(f"{path} cannot be {done}: {error.strerror or error}") from error


def _put_in_place(unfinished: Path, path: Path) -> None:
    replaced = path.with_name(f".replaced-{path.name}")
    if path.exists():
        # A folder cannot be renamed onto a non-empty folder, so the old one is renamed first.
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    unfinished.rename(path)
    _sync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(root))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Digests of model files, cached in the user's cache until a file changes.
#
# SHA-256 reads 0.5 GB/s on one core of a small machine, so 2.5 GB of weights would cost each
# command 5 s. A cached digest is used while device, inode, size, modification time and change time
# of the file are the same. The change time cannot be set by programs, so an edit is never
# overlooked; damage that the disk does not report is found at the first load only.


CACHED_BYTES = 64 << 20
"""Files from this size on are cached; smaller files are read in 0.1 s."""
_SETTLED_S = 2.0
"""Age from which a change time is unique: file systems count in steps of up to 2 s."""


def cached_digest(path: Path, compute: Callable[[], str]) -> str:
    """Return the digest of a file, computed if it is small, new or changed."""
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
        with suppress(StorageError, OSError):
            write_atomic(cached, digest.encode())
    return digest


def files_fingerprint(folder: Path, paths: Iterable[Path]) -> str:
    """Compute the 24 hex digits that identify files by their contents and names."""
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
