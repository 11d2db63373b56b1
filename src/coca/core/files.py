"""Files and folders that are either whole or absent, even if the machine stops in between."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coca.core.errors import StorageError


def user_cache() -> Path:
    """Where everything can be made again: `coca` within XDG_CACHE_HOME, else within ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coca"


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never a part.

    Missing parent folders are made.

    Raises:
        StorageError: The disk is full, or the place may not be written.
    """
    path = Path(path)
    # Beside the target, since only a rename within one file system is atomic.
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
    """Fill a folder so that it appears under its name only when it is whole.

    The body writes into the folder it is given, `.incomplete-NAME` beside the target. If the body
    raises, that folder is removed and the target stays as it was. A folder that stands at `path`
    is replaced; a machine that stops between the two renames leaves it as `.replaced-NAME`.
    One writer at a time.

    Yields:
        The folder to write into.

    Raises:
        StorageError: The disk is full, the place may not be written, or `path` is a file.
    """
    path = Path(path)
    unfinished = path.with_name(f".incomplete-{path.name}")
    with _storage_errors(path, "written"):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(None, "a file of that name is in the way", str(path))
        # What a killed run left behind.
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
    r"""Add one line to a log that several processes may write; `text` holds no `\n`.

    A half line left by a killed writer is closed first, so that it spoils no other.

    Raises:
        StorageError: The disk is full, or the place may not be written.
    """
    assert "\n" not in text, "a line of a log cannot hold a line break"
    path = Path(path)
    with _storage_errors(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    text = "\n" + text
            line = text.encode() + b"\n"
            while line:  # one call, so one piece, unless the disk fills up
                line = line[file.write(line) :]


def read_json(path: str | Path) -> Any:
    """What a JSON file of somebody else holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, or nested so deeply that it would end the interpreter's stack.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sha256_file(path: str | Path) -> str:
    """The file's SHA-256 as 64 hex digits, read in pieces.

    Raises:
        StorageError: The file is missing or may not be read.
    """
    with _storage_errors(Path(path), "read"), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _storage_errors(path: Path, done: str, *, within: Path | None = None) -> Iterator[None]:
    """Turn the system's refusals into a sentence; with `within`, only those that concern it."""
    try:
        yield
    except OSError as error:
        # A full disk names no file; a foreign file that the body failed to read is not ours.
        ours = within is None or error.filename is None or within.name in str(error.filename)
        if not ours:
            raise
        raise StorageError(f"{path} cannot be {done}: {error.strerror or error}") from error


def _put_in_place(unfinished: Path, path: Path) -> None:
    replaced = path.with_name(f".replaced-{path.name}")
    if path.exists():
        # A folder cannot be renamed onto a full one, so the old one steps aside first.
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
