"""What a tar holds and where, so that any sample can be read without the others.

The index of `NAME.tar` is the file `NAME.tar.idx`: JSON with the tar's size and, for each member,
name, offset, size (bytes) and CRC-32. It is made by reading the tar once, which also finds
truncated and damaged ones before a run begins.
"""

import hashlib
import io
import json
import logging
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped, UInt32

from coca.core.errors import DataError, StorageError
from coca.core.files import user_cache, write_atomic
from coca.core.formats import IMAGE_SUFFIXES
from coca.data.storage import Storage, is_remote

logger = logging.getLogger(__name__)

VERSION = 1
READ_BYTES = 1 << 20

# Columns of the arrays below: what a member is to its sample.
IMAGE, TEXT, JSON, LABEL = range(4)
_COLUMNS = {"txt": TEXT, "json": JSON, "cls": LABEL} | dict.fromkeys(
    (suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES), IMAGE
)


class Member(NamedTuple):
    """A file within a tar."""

    name: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar, as arrays: millions of them cost little, in each process.

    N samples; the four columns are `IMAGE`, `TEXT`, `JSON` and `LABEL`.
    """

    path: str
    keys: Shaped[np.ndarray, " N"]
    """UTF-8 bytes."""

    offsets: Int64[np.ndarray, "N 4"]
    sizes: Int64[np.ndarray, "N 4"]
    """Bytes; -1 where the sample has no such member."""

    crc32s: UInt32[np.ndarray, "N 4"]

    def digest(self) -> bytes:
        """A hash of the tar's own name and of all names, sizes and checksums in it."""
        digest = hashlib.sha256(_base_name(self.path).encode("utf-8", "surrogateescape"))
        for array in (self.keys, self.sizes, self.crc32s):
            digest.update(array.tobytes())
        return digest.digest()


def load_index(path: str, storage: Storage, *, folder: str = "") -> TarIndex:
    """The index of a tar: as it was kept, or made now and kept for the next time.

    A kept index counts if it names the size that the tar has and is no older than the tar.

    Args:
        path: Path or URL of the tar.
        storage: Reads it.
        folder: Where indexes are kept. By default next to the tar; where that may not be
            written, in `index` of the user's cache.

    Raises:
        DataError: The tar is missing, truncated, compressed or damaged, or holds a name twice.
    """
    tar_bytes = storage.size(path)
    for place in _places(path, folder):
        members = _read_index(place, path, tar_bytes, storage)
        if members is not None:
            return _arrange(path, members)
    logger.info("indexing %s", path)
    with storage.open(path) as stream:
        members = list(scan_tar(stream, path))
    index = _arrange(path, members)
    _keep(path, folder, index_bytes(members, tar_bytes))
    return index


def index_bytes(members: Sequence[Member], tar_bytes: int) -> bytes:
    """The content of an index file."""
    content = {"version": VERSION, "tar_bytes": tar_bytes, "members": members}
    return json.dumps(content, separators=(",", ":")).encode()


def scan_tar(stream: io.BufferedIOBase, path: str) -> Iterator[Member]:
    """The files in a tar, found by reading the whole of it.

    Args:
        stream: The tar, at its beginning; must be able to seek.
        path: What errors call it.

    Raises:
        DataError: The tar is truncated, compressed or damaged; the message names the last good
            member.
    """
    last = "none"
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                if entry.isfile():
                    member = _checked(stream, entry)
                    yield member
                    last = member.name
                # tarfile keeps each header for random access, which a single pass does not need.
                tar.members.clear()  # type: ignore[attr-defined]
            stream.seek(tar.offset)
            end_mark = stream.read(tarfile.BLOCKSIZE)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{path} is truncated, damaged or not a plain tar ({error}); last good member: {last}",
            reason="damaged_tar",
        ) from error
    # A tar ends with blocks of zeros. tarfile takes a damaged header for the end, too, and a writer
    # that was killed between two members left no end at all.
    if end_mark != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            f"{path} is truncated or damaged: no end mark after its last good member {last}",
            reason="damaged_tar",
        )


def _checked(stream: io.BufferedIOBase, entry: tarfile.TarInfo) -> Member:
    stream.seek(entry.offset_data)
    crc32, left = 0, entry.size
    while left:
        piece = stream.read(min(left, READ_BYTES))
        if not piece:
            raise EOFError(f"{entry.name} lacks its last {left:,} bytes")
        crc32 = zlib.crc32(piece, crc32)
        left -= len(piece)
    return Member(entry.name, entry.offset_data, entry.size, crc32)


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as WebDataset has them: split at the file's first dot."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _arrange(path: str, members: Sequence[Member]) -> TarIndex:
    rows: dict[str, int] = {}
    found: dict[tuple[int, int], Member] = {}
    for member in members:
        key, extension = split_name(member.name)
        column = _COLUMNS.get(extension)
        if column is None:
            continue
        row = rows.setdefault(key, len(rows))
        if (row, column) in found:
            raise DataError(
                f"{path} holds two files of one kind for the key {key}: "
                f"{found[row, column].name} and {member.name}",
                reason="duplicate_key",
            )
        found[row, column] = member
    offsets = np.zeros((len(rows), 4), np.int64)
    sizes = np.full((len(rows), 4), -1, np.int64)
    crc32s = np.zeros((len(rows), 4), np.uint32)
    for place, member in found.items():
        offsets[place], sizes[place], crc32s[place] = member.offset, member.size, member.crc32
    keys = np.array([key.encode("utf-8", "surrogateescape") for key in rows], np.bytes_)
    return TarIndex(path, keys, offsets, sizes, crc32s)


def _read_index(place: str, path: str, tar_bytes: int, storage: Storage) -> list[Member] | None:
    """The members that a kept index lists; None if there is none or it does not fit."""
    try:
        content = json.loads(storage.read_all(place))
        members = [Member(*member) for member in content["members"]]
        fits = content["version"] == VERSION and content["tar_bytes"] == tar_bytes
        inside = all(0 <= m.offset <= m.offset + m.size <= tar_bytes for m in members)
    except DataError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged (%r) and is made again", place, error)
        return None
    if not is_remote(place) and not is_remote(path):
        fits = fits and os.stat(place).st_mtime_ns >= os.stat(path).st_mtime_ns
    return members if fits and inside else None


def _places(path: str, folder: str) -> list[str]:
    """Where an index may be kept, best first."""
    name = _base_name(path)
    full = path if is_remote(path) else os.path.abspath(path)
    own = f"{name}-{hashlib.sha256(full.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.idx"
    if folder:
        return [os.path.join(folder, own)]
    return [path + ".idx", os.path.join(user_cache(), "index", own)]


def _keep(path: str, folder: str, content: bytes) -> None:
    for place in _places(path, folder):
        if is_remote(place) or _is_locked(Path(place).parent):
            continue
        try:
            write_atomic(place, content)
        except StorageError as error:
            logger.info("%s", error)
        else:
            return
    logger.warning("the index of %s can be kept nowhere; it is made again each time", path)


def _is_locked(folder: Path) -> bool:
    """Whether a folder is marked read-only; the system itself would let its root user write."""
    return folder.exists() and not folder.stat().st_mode & 0o222


def _base_name(path: str) -> str:
    return path.replace(os.sep, "/").rpartition("/")[2]
