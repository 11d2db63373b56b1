"""Tar index for random access: key, and offset and size of each file, of every sample.

The index of `NAME.tar` is the file `NAME.tar.idx`: a line of JSON, then one record of equal size
for each sample. A source reads the lines only, so that its memory does not grow with the number of
samples. It reads records when it needs them: one by one from a local file, in blocks from a URL.
Next to the indexes in a folder behind a URL, a catalog has the first lines of all indexes of a run.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import tarfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from coca.core.errors import DataError, StorageError
from coca.core.files.atomic import user_cache, write_atomic
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.data.sources.tar.scan import TarScan, scan_tar
from coca.data.storage.storage import Storage, full_path, is_remote

logger = logging.getLogger(__name__)

VERSION = 3

SPOTS = 16
"""Samples to verify in a tar whose index was made on another machine."""

TICK_S = 0.02

INDEX_THREADS = 8
TARS_PER_PROCESS = 8
"""Number of tars that pays for the start of a process."""

MAX_KEY_BYTES = 4096
"""Longest key, bytes; a record has the width of the longest key."""

RECORDS = 256
"""Records of a remote index that are read together."""

HEADER_BYTES = 4096
"""Maximum length of the first line of an index."""

# Columns of a record: role of a file in its sample.
IMAGE, TEXT, JSON, LABEL = range(4)
_COLUMNS = {"txt": TEXT, "json": JSON, "cls": LABEL} | dict.fromkeys(
    (suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES), IMAGE
)

ABSENT = 0xFFFFFFFF
"""Size of a file that a sample does not have."""
_TOO_LARGE = ABSENT - 1
_BLOCK = tarfile.BLOCKSIZE


class TarSample(NamedTuple):
    """A sample of a tar; offsets and sizes are bytes by column, `ABSENT` without such a file."""

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    crc32s: tuple[int, ...] | None
    """Checksums of the files; None if the tar was indexed without reading them."""


class _Header(NamedTuple):
    """First line of an index file."""

    version: int
    tar: dict[str, int | str]
    """State of the tar, as of `Storage.state`."""
    end: int
    """First byte of the end mark."""
    rows: int
    key_bytes: int
    has_checksums: bool
    digest: str
    """Hash of keys and sizes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Layout of a record; `check` is a CRC-32 of the other fields."""
        files: list[tuple[str, str, tuple[int, ...]]] = [
            ("blocks", "<u4", (4,)),
            ("sizes", "<u4", (4,)),
        ]
        if self.has_checksums:
            files.append(("crc32s", "<u4", (4,)))
        return np.dtype([("key", f"S{self.key_bytes}"), *files, ("check", "<u4")])


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar; records are read from the index file when they are needed."""

    path: str
    _header: _Header
    _start: int
    """First byte of the records in the index file."""
    _content: str | bytes
    """Path of the index file, or its bytes if it could be kept nowhere."""
    _storage: Storage

    def __len__(self) -> int:
        return self._header.rows

    def digest(self) -> bytes:
        """Hash the name of the tar and the keys and sizes of its samples."""
        name = _base_name(self.path).encode("utf-8", "surrogateescape")
        return hashlib.sha256(name + self._header.digest.encode()).digest()

    @property
    def state(self) -> Mapping[str, int | str]:
        """State of the tar when it was indexed, as of `Storage.state`."""
        return self._header.tar

    def read(self, rows: Sequence[int]) -> list[TarSample]:
        """Read the records of samples."""
        # That of `_Header.dtype`, which is slower to read.
        header = self._header
        layout = Struct(f"<{header.key_bytes}s{12 if header.has_checksums else 8}II")
        records = []
        for part in self._parts(rows, layout.size):
            key, *numbers, check = layout.unpack(part)
            if zlib.crc32(part[:-4]) != check:
                raise DataError(
                    f"{self._content if isinstance(self._content, str) else self.path} was damaged "
                    "or replaced; remove it, or repeat `coca data index`, to index the tar again",
                    reason="damaged_index",
                )
            records.append(
                TarSample(
                    key.rstrip(b"\0").decode("utf-8", "surrogateescape"),
                    tuple([block * _BLOCK for block in numbers[:4]]),
                    tuple(numbers[4:8]),
                    tuple(numbers[8:]) or None,
                )
            )
        return records

    def _parts(self, rows: Sequence[int], size: int) -> list[bytes]:
        """Read the bytes of records of a size."""
        content, start = self._content, self._start
        if isinstance(content, bytes):
            return [content[start + row * size : start + (row + 1) * size] for row in rows]
        if not is_remote(content):
            ranges = [(start + row * size, start + (row + 1) * size) for row in rows]
            return self._storage.read(content, ranges)
        parts = []
        for row in rows:
            first = row - row % RECORDS
            end = min(first + RECORDS, len(self))
            block = self._storage.read_block(content, start + first * size, start + end * size)
            parts.append(block[(row - first) * size : (row - first + 1) * size])
        return parts

    def read_bytes(self) -> bytes:
        """Read all records, as they are stored."""
        content = self._content
        whole = self._storage.read_all(content) if isinstance(content, str) else content
        return whole[self._start :]


@cache
def load_index(
    path: str, storage: Storage, *, folder: str = "", checksums: bool = False
) -> TarIndex:
    """Load the stored index of a tar, or scan the headers of the tar and store its index.

    A stored index is valid if the tar has the same size and, on this machine, the same modification
    times (nanoseconds) and inode, or the same ETag of a remote tar. These are not comparable if the
    index was made on another machine: a copy with preserved times, or an index that was uploaded
    with its tar. Then up to `SPOTS` samples and the end mark are verified. In all other cases the
    tar is scanned again.
    """
    state = storage.state(path)
    likely = None
    for index_path in _index_paths(path, folder):
        kept = _open_index(path, index_path, storage)
        if kept is None or (checksums and not kept._header.has_checksums):
            continue
        fits = _compare(kept.state, state)
        if fits:
            return kept
        if fits is None and likely is None:
            likely = kept
    if likely is not None and _agrees(likely, storage):
        header = likely._header._replace(tar=state)
        return _keep(path, folder, header, likely.read_bytes(), storage)
    logger.info("indexing %s", path)
    state = _settled(path, state, storage)
    with storage.open(path, skips=not checksums) as stream:
        scan = scan_tar(stream, path, checksums=checksums)
    header, records = _arranged(path, scan, state, has_checksums=checksums)
    if storage.state(path) != state:
        logger.warning("%s changed while it was indexed; its index is not kept", path)
        content = _encoded(header)
        return TarIndex(path, header, len(content), content + records, storage)
    return _keep(path, folder, header, records, storage)


def listed_indexes(
    paths: Sequence[str], storage: Storage, *, folder: str, checksums: bool = False
) -> dict[str, TarIndex]:
    """Open the indexes of tars by the catalog of these tars in a remote folder.

    Left out are tars that changed after it was written; without a catalog, all of them.
    """
    if not is_remote(folder):
        return {}
    catalog = _catalog_path(paths, folder)
    try:
        lines = storage.read_all(catalog).splitlines(keepends=True)
        listed = list(zip(paths, lines, map(_parsed, lines), strict=True))
        states = storage.states(paths)
    except DataError as error:
        logger.info("%s", error)
        return {}
    except _BROKEN as error:
        logger.warning("%s cannot be read (%r); repeat `coca data index`", catalog, error)
        return {}
    return {
        path: TarIndex(path, header, len(line), _index_paths(path, folder)[-1], storage)
        for path, line, header in listed
        if path in states and _compare(header.tar, states[path])
        if header.version == VERSION and (header.has_checksums or not checksums)
    }


def index_tars(paths: Sequence[str], *, folder: str = "", checksums: bool = False) -> Iterator[int]:
    """Index tars in parallel, and yield the number of samples of each, in order.

    Many tars are indexed by a process for each core, few in threads. After the last, their catalog
    is written to a remote folder. Arguments as of `load_index`.
    """
    store = partial(_store_index, folder=folder, checksums=checksums)
    workers = min(os.cpu_count() or 1, len(paths) // TARS_PER_PROCESS)
    pool: Executor = ThreadPoolExecutor(INDEX_THREADS)
    if workers > 1:
        # Not forked: obstore's threads do not exist in a fork.
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    catalog = []
    with pool:
        for header in pool.map(store, paths):
            catalog.append(_encoded(header))
            yield header.rows
    if is_remote(folder):
        Storage().write(_catalog_path(paths, folder), b"".join(catalog))


def _store_index(path: str, *, folder: str, checksums: bool) -> _Header:
    """Index a tar, also in a remote folder."""
    storage = Storage()
    index = load_index(path, storage, folder=folder, checksums=checksums)
    if is_remote(folder):
        *_, remote = _index_paths(path, folder)
        stored = _open_index(path, remote, storage)
        if stored is None or stored._header != index._header:
            storage.write(remote, _encoded(index._header) + index.read_bytes())
    return index._header


def _catalog_path(paths: Sequence[str], folder: str) -> str:
    """Return the path of the catalog of tars, in this order."""
    names = "\n".join(map(full_path, paths)).encode("utf-8", "surrogateescape")
    return f"{folder.rstrip('/')}/{hashlib.sha256(names).hexdigest()[:16]}.jsonl"


def write_index(path: str, scan: TarScan, storage: Storage) -> None:
    """Write the index of a tar that was scanned with checksums next to it."""
    header, records = _arranged(path, scan, storage.state(path), has_checksums=True)
    write_atomic(f"{path}.idx", _encoded(header) + records)


def split_name(name: str) -> tuple[str, str]:
    """Split a member name into key and extension at the first dot, as WebDataset does."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _arranged(
    path: str, scan: TarScan, state: Mapping[str, int | str], *, has_checksums: bool
) -> tuple[_Header, bytes]:
    """Group the members of a tar by sample; return the header and the records."""
    rows: dict[str, int] = {}
    names: dict[tuple[int, int], str] = {}
    cells: list[tuple[int, int, int, int, int]] = []
    for member in scan.members:
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
        if (row, column) in names:
            raise DataError(
                f"{path} has two files of one kind for the key {key}: "
                f"{names[row, column]} and {member.name}",
                reason="duplicate_key",
            )
        names[row, column] = member.name
        size = min(member.size, _TOO_LARGE)
        cells.append((row, column, member.offset // _BLOCK, size, member.crc32))
    keys = np.array([key.encode("utf-8", "surrogateescape") for key in rows] or [b""], np.bytes_)
    header = _Header(
        VERSION, dict(state), scan.end, len(rows), max(keys.itemsize, 1), has_checksums, ""
    )
    records = np.zeros(len(rows), header.dtype)
    records["key"] = keys[: len(rows)]
    records["sizes"] = ABSENT
    for row, column, block, size, crc32 in cells:
        records["blocks"][row, column], records["sizes"][row, column] = block, size
        if has_checksums:
            records["crc32s"][row, column] = crc32
    for row in range(len(rows)):
        records["check"][row] = zlib.crc32(records[row].tobytes()[:-4])
    identity = keys[: len(rows)].tobytes() + records["sizes"].tobytes()
    return header._replace(digest=hashlib.sha256(identity).hexdigest()), records.tobytes()


def _encoded(header: _Header) -> bytes:
    return json.dumps(header._asdict(), separators=(",", ":")).encode() + b"\n"


def _open_index(path: str, index_path: str, storage: Storage) -> TarIndex | None:
    """Read the header of a stored index; None if it is missing, damaged, or of another version."""
    try:
        # Not by `storage.read`, which keeps a file open that may be written again below.
        with storage.open(index_path, skips=True) as stream:
            line = stream.readline(HEADER_BYTES)
            size = stream.seek(0, os.SEEK_END)
    except (DataError, OSError):
        return None
    try:
        header = _parsed(line)
        if header.version != VERSION:
            return None
        if size != len(line) + header.rows * header.dtype.itemsize:
            raise ValueError(f"its size {size:,} is wrong")
    except _BROKEN as error:
        logger.warning("%s cannot be read (%r) and is made again", index_path, error)
        return None
    return TarIndex(path, header, len(line), index_path, storage)


_BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What `_parsed` raises."""


def _parsed(line: bytes) -> _Header:
    """Parse and check the first line of an index."""
    header = _Header(**json.loads(line))
    if header.rows < 0 or not 0 < header.key_bytes <= MAX_KEY_BYTES:
        raise ValueError(f"{header.rows} rows with keys of {header.key_bytes} bytes")
    if not 0 <= header.end <= int(header.tar["bytes"]):
        raise ValueError(f"the end {header.end:,} is wrong")
    return header


def _compare(kept: Mapping[str, int | str], now: Mapping[str, int | str]) -> bool | None:
    """Compare a tar with its index; None if only the content can decide."""
    if kept["bytes"] != now["bytes"]:
        return False
    if kept == now and len(now) > 1:
        return True
    # Inode and ctime are specific to a machine; a copy may preserve everything else.
    shared = (kept.keys() & now.keys()) - {"inode", "ctime_ns"}
    return None if all(kept[name] == now[name] for name in shared) else False


def _agrees(kept: TarIndex, storage: Storage) -> bool:
    """Verify a sample of records and the end mark against an index."""
    count = len(kept)
    chosen = sorted({count * spot // SPOTS for spot in range(SPOTS) if count} | {count - 1} - {-1})
    end = kept._header.end
    try:
        wanted = [
            (record, column)
            # By other handles, since the index may be written again.
            for record in replace(kept, _storage=Storage()).read(chosen)
            for column, size in enumerate(record.sizes)
            if size != ABSENT
        ]
        *parts, end_mark = storage.read(
            kept.path,
            [
                (record.offsets[column] - _BLOCK, record.offsets[column] + record.sizes[column])
                for record, column in wanted
            ]
            + [(end, end + _BLOCK)],
        )
    except DataError:
        return False
    return end_mark == bytes(_BLOCK) and all(
        _is_member(part[:_BLOCK], part[_BLOCK:], record, column)
        for part, (record, column) in zip(parts, wanted, strict=True)
    )


def _is_member(header: bytes, content: bytes, record: TarSample, column: int) -> bool:
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    key, extension = split_name(found.name)
    # Other names are in a separate header before this one.
    is_plain = record.key.isascii() and len(record.key) <= tarfile.LENGTH_NAME - 5
    named = key == record.key and _COLUMNS.get(extension) == column
    checked = record.crc32s is None or zlib.crc32(content) == record.crc32s[column]
    # A hard link has another name than its target, and its tar is scanned again.
    return found.size == len(content) and checked and (named or not is_plain)


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
    full = full_path(path).encode("utf-8", "surrogateescape")
    own = f"{name}-{hashlib.sha256(full).hexdigest()[:16]}.idx"
    cached = os.path.join(user_cache(), "index", own)
    if is_remote(folder):
        return [cached, f"{folder.rstrip('/')}/{own}"]
    if folder:
        return [os.path.join(folder, own)]
    paths = [path + ".idx", cached]
    # Local first: the other takes a request.
    return paths[::-1] if is_remote(path) else paths


def _keep(path: str, folder: str, header: _Header, records: bytes, storage: Storage) -> TarIndex:
    """Store an index in the first folder that can be written, and open it."""
    first = _encoded(header)
    for index_path in _index_paths(path, folder):
        if is_remote(index_path) or _is_locked(Path(index_path).parent):
            continue
        try:
            write_atomic(index_path, first + records)
        except StorageError as error:
            logger.info("%s", error)
        else:
            return TarIndex(path, header, len(first), index_path, storage)
    logger.warning("the index of %s can be kept nowhere; it is made again each time", path)
    return TarIndex(path, header, len(first), first + records, storage)


def _is_locked(folder: Path) -> bool:
    """Return whether a folder is marked read-only, also for root, who could still write."""
    return folder.exists() and not folder.stat().st_mode & 0o222


def _base_name(path: str) -> str:
    return path.replace(os.sep, "/").rpartition("/")[2]
