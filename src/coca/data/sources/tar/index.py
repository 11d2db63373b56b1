"""Tar index for random access: name, offset, size and CRC-32 of each member.

The index of `NAME.tar` is the JSON file `NAME.tar.idx`. It has the identity of the tar
(`Storage.state`), the offset of its end mark and, for each member, name, offset, size (bytes) and
CRC-32.
"""

import hashlib
import json
import logging
import os
import tarfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped, UInt32

from coca.core.errors import DataError, StorageError
from coca.core.files.atomic import user_cache, write_atomic
from coca.core.files.formats import MEDIA_SUFFIXES
from coca.data.sources.tar.scan import Member, scan_tar
from coca.data.storage.storage import Storage, is_remote

logger = logging.getLogger(__name__)

VERSION = 2

SPOTS = 16
"""Members to verify in a tar whose index was made on another machine."""

TICK_S = 0.02

MAX_KEY_BYTES = 4096
"""Longest key, bytes; the array of keys has the width of the longest key."""

# Columns of the arrays below: role of a member in its sample.
IMAGE, TEXT, JSON, LABEL = range(4)
_COLUMNS = {"txt": TEXT, "json": JSON, "cls": LABEL} | dict.fromkeys(
    (suffix.removeprefix(".") for suffix in MEDIA_SUFFIXES), IMAGE
)


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar as compact arrays, since each process has a copy.

    Dimensions: N samples; the four columns are `IMAGE`, `TEXT`, `JSON` and `LABEL`.
    """

    path: str
    keys: Shaped[np.ndarray, " N"]
    """UTF-8 bytes."""

    offsets: Int64[np.ndarray, "N 4"]
    sizes: Int64[np.ndarray, "N 4"]
    """Bytes; -1 where the sample has no such member."""

    crc32s: UInt32[np.ndarray, "N 4"]

    def digest(self) -> bytes:
        """Hash the name of the tar and the names, sizes and checksums of its members."""
        digest = hashlib.sha256(_base_name(self.path).encode("utf-8", "surrogateescape"))
        for array in (self.keys, self.sizes, self.crc32s):
            digest.update(array.tobytes())
        return digest.digest()


def load_index(path: str, storage: Storage, *, folder: str = "") -> TarIndex:
    """Load the stored index of a tar, or scan the tar and store its index.

    A stored index is valid if the tar has the same size and, on this machine, the same modification
    times (nanoseconds) and inode, or the same ETag of a remote tar. These are not comparable if the
    index was made on another machine: a copy with preserved times, or an index that was uploaded
    with its tar. Then the headers and checksums of up to `SPOTS` members and the end mark are
    verified. In all other cases the tar is scanned again.

    Args:
        path: Path or URL of the tar.
        storage: Reader of the tar.
        folder: Folder of stored indexes. By default the folder of the tar; if that is not writable,
            `index` in the user's cache.
    """
    state = storage.state(path)
    likely = None
    for index_path in _index_paths(path, folder):
        kept = _read_index(index_path, storage)
        if kept is None:
            continue
        fits = _compare(kept.state, state)
        if fits:
            return _arrange(path, kept.members)
        if fits is None and likely is None:
            likely = kept
    if likely is not None and _agrees(likely, path, storage):
        index = _arrange(path, likely.members)
        _keep(path, folder, index_bytes(likely.members, state, likely.end))
        return index
    logger.info("indexing %s", path)
    state = _settled(path, state, storage)
    with storage.open(path) as stream:
        members, end = scan_tar(stream, path)
    index = _arrange(path, members)
    if storage.state(path) == state:
        _keep(path, folder, index_bytes(members, state, end))
    else:
        logger.warning("%s changed while it was indexed; its index is not kept", path)
    return index


def index_bytes(members: Sequence[Member], state: Mapping[str, int | str], end: int) -> bytes:
    """Serialize an index file."""
    content = {"version": VERSION, "tar": dict(state), "end": end, "members": members}
    return json.dumps(content, separators=(",", ":")).encode()


def split_name(name: str) -> tuple[str, str]:
    """Split a member name into key and extension at the first dot, as WebDataset does."""
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
        if len(key.encode("utf-8", "surrogateescape")) > MAX_KEY_BYTES:
            raise DataError(
                f"{path} contains a file whose name has {len(key):,} characters: {key:.40}..",
                reason="bad_key",
            )
        row = rows.setdefault(key, len(rows))
        if (row, column) in found:
            raise DataError(
                f"{path} has two files of one kind for the key {key}: "
                f"{found[row, column].name} and {member.name}",
                reason="duplicate_key",
            )
        found[row, column] = member
    offsets = np.zeros((len(rows), 4), np.int64)
    sizes = np.full((len(rows), 4), -1, np.int64)
    crc32s = np.zeros((len(rows), 4), np.uint32)
    for cell, member in found.items():
        offsets[cell], sizes[cell], crc32s[cell] = member.offset, member.size, member.crc32
    keys = np.array([key.encode("utf-8", "surrogateescape") for key in rows], np.bytes_)
    return TarIndex(path, keys, offsets, sizes, crc32s)


class _Kept(NamedTuple):
    """Content of an index file."""

    state: dict[str, int | str]
    end: int
    members: list[Member]


def _read_index(index_path: str, storage: Storage) -> _Kept | None:
    """Read a stored index; None if it is missing, damaged, or of another version."""
    try:
        content = json.loads(storage.read_all(index_path))
        if content["version"] != VERSION:
            return None
        kept = _Kept(
            dict(content["tar"]), content["end"], [Member(*one) for one in content["members"]]
        )
        tar_bytes = int(kept.state["bytes"])
        for name, offset, size, crc32 in kept.members:
            name.encode("utf-8", "surrogateescape")
            if not (0 <= offset <= offset + size <= tar_bytes and 0 <= crc32 < 1 << 32):
                raise ValueError(f"the position of {name!r:.80} is wrong")
        if not 0 <= kept.end <= tar_bytes:
            raise ValueError(f"the end {kept.end} is wrong")
    except DataError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning("%s is damaged (%r) and is made again", index_path, error)
        return None
    return kept


def _compare(kept: Mapping[str, int | str], now: Mapping[str, int | str]) -> bool | None:
    """Compare a tar with its index; None if only the content can decide."""
    if kept["bytes"] != now["bytes"]:
        return False
    if kept == now and len(now) > 1:
        return True
    # Inode and ctime are specific to a machine; a copy may preserve everything else.
    shared = (kept.keys() & now.keys()) - {"inode", "ctime_ns"}
    return None if all(kept[name] == now[name] for name in shared) else False


def _agrees(kept: _Kept, path: str, storage: Storage) -> bool:
    """Verify a sample of members and the end mark against an index."""
    by_offset = {member.offset: member for member in reversed(kept.members)}
    offsets = sorted(by_offset)
    chosen = {offsets[len(offsets) * spot // SPOTS] for spot in range(SPOTS) if offsets}
    members = [by_offset[offset] for offset in sorted(chosen | set(offsets[-1:]))]
    block = tarfile.BLOCKSIZE
    try:
        *parts, end_mark = storage.read(
            path,
            [(one.offset - block, one.offset + one.size) for one in members]
            + [(kept.end, kept.end + block)],
        )
    except DataError:
        return False
    return end_mark == bytes(block) and all(
        _is_member(part[:block], part[block:], member)
        for part, member in zip(parts, members, strict=True)
    )


def _is_member(header: bytes, content: bytes, member: Member) -> bool:
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    # Other names are in a separate header before this one.
    is_plain = member.name.isascii() and len(member.name) <= tarfile.LENGTH_NAME
    return (
        (found.name == member.name or not is_plain)
        and found.size == member.size
        and zlib.crc32(content) == member.crc32
    )


def _settled(path: str, state: dict[str, int | str], storage: Storage) -> dict[str, int | str]:
    """Wait until the next write is certain to change the state, and return the state.

    File systems have timestamps of up to 10 ms resolution; two writes within it are not distinct.
    """
    if "ctime_ns" not in state:
        return state
    age_s = (time.time_ns() - max(int(state["ctime_ns"]), int(state["mtime_ns"]))) / 1e9
    if not 0 <= age_s < TICK_S:
        return state
    time.sleep(TICK_S - age_s)
    return storage.state(path)


def _index_paths(path: str, folder: str) -> list[str]:
    """List the possible paths of an index, best first."""
    name = _base_name(path)
    full = path if is_remote(path) else os.path.abspath(path)
    own = f"{name}-{hashlib.sha256(full.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.idx"
    if folder:
        return [os.path.join(folder, own)]
    return [path + ".idx", os.path.join(user_cache(), "index", own)]


def _keep(path: str, folder: str, content: bytes) -> None:
    for index_path in _index_paths(path, folder):
        if is_remote(index_path) or _is_locked(Path(index_path).parent):
            continue
        try:
            write_atomic(index_path, content)
        except StorageError as error:
            logger.info("%s", error)
        else:
            return
    logger.warning("the index of %s can be kept nowhere; it is made again each time", path)


def _is_locked(folder: Path) -> bool:
    """Return whether a folder is marked read-only, also for root, who could still write."""
    return folder.exists() and not folder.stat().st_mode & 0o222


def _base_name(path: str) -> str:
    return path.replace(os.sep, "/").rpartition("/")[2]
