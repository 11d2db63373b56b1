"""Tar shards in the layout of WebDataset and img2dataset: random-access reader and writer.

The files of a tar that share a name up to the first dot are one sample: `KEY.jpg` (or png, webp,
...), `KEY.txt` with a caption, `KEY.cls` with a label, and `KEY.json` with `caption` or `captions`,
`labels` and further metadata.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import NonNegativeInt

from coca.core.annotations import parse_record, parse_text, split_record
from coca.core.errors import ConfigError, DataError
from coca.core.files.atomic import write_atomic
from coca.core.files.formats import IMAGE_FORMATS_SHOWN
from coca.core.files.local_files import MAX_IMAGE_BYTES, doubt, nearest
from coca.data.sample import Sample
from coca.data.sources.source import SelectionConfig, Source, register_source
from coca.data.sources.table_source import selected_rows
from coca.data.sources.tar.index import (
    ABSENT,
    IMAGE,
    INDEX_THREADS,
    JSON,
    LABEL,
    TEXT,
    TarIndex,
    TarSample,
    listed_indexes,
    load_index,
    write_index,
)
from coca.data.sources.tar.scan import scan_tar
from coca.data.storage.remote import Range
from coca.data.storage.storage import Storage, expand_braces, full_path, is_remote, matches

# Read samples of a tar by its index, with range requests for the needed members only.


# Members of a sample with at most this gap are read with one request.
SPAN_GAP_BYTES = 4096

ALL_COLUMNS = (IMAGE, TEXT, JSON, LABEL)
"""The members of a sample, by their column in the tar index."""


def read_tar(
    storage: Storage,
    tar: TarIndex,
    rows: Sequence[int],
    columns: Sequence[int] = ALL_COLUMNS,
) -> list[Sample | DataError]:
    """Read rows of a tar; each yields a sample or its error."""
    try:
        records = tar.read(rows)
        spans = [_spans(it, columns) if _largest(it) <= MAX_IMAGE_BYTES else [] for it in records]
        wanted = [span for of_row in spans for span in of_row]
        parts = iter(storage.read(tar.path, wanted) if wanted else [])
    except DataError as error:
        return [error] * len(rows)
    results: list[Sample | DataError] = []
    for record, of_row in zip(records, spans, strict=True):
        content = {span: next(parts) for span in of_row}
        try:
            results.append(_sample(tar.path, record, content, columns))
        except DataError as error:
            results.append(error)
    return results


def _largest(record: TarSample) -> int:
    return max((size for size in record.sizes if size != ABSENT), default=0)


def _spans(record: TarSample, columns: Sequence[int]) -> list[Range]:
    """Compute the byte ranges of the files of a sample, merging close ranges."""
    spans: list[Range] = []
    for offset, size in sorted((record.offsets[it], record.sizes[it]) for it in columns):
        if size in (0, ABSENT):
            continue
        if spans and offset - spans[-1][1] <= SPAN_GAP_BYTES:
            spans[-1] = (spans[-1][0], offset + size)
        else:
            spans.append((offset, offset + size))
    return spans


def _sample(
    path: str, record: TarSample, spans: Mapping[Range, bytes], columns: Sequence[int]
) -> Sample:
    key = record.key
    if _largest(record) > MAX_IMAGE_BYTES:
        raise DataError(
            f"a file of {key} in {path} has {_largest(record):,} bytes, and at most "
            f"{MAX_IMAGE_BYTES:,} are read",
            reason="too_large",
        )
    if record.sizes[IMAGE] == ABSENT:
        raise DataError(f"{key} in {path} has no image", reason="no_image")
    image, text, content, label = (
        _file(path, record, column, spans) if column in columns else None for column in ALL_COLUMNS
    )
    origin = f"{path}: {key}"
    fields = parse_record(content, f"{origin}.json") if content else {}
    captions, labels, metadata = split_record(fields, f"{origin}.json")
    if not captions and text is not None:
        captions = (parse_text(text, f"{origin}.txt").strip(),)
    if not labels and label is not None:
        labels = (parse_text(label, f"{origin}.cls").strip(),)
    return Sample(key, image or b"", captions, labels, metadata)


def _file(path: str, record: TarSample, column: int, spans: Mapping[Range, bytes]) -> bytes | None:
    offset, size = record.offsets[column], record.sizes[column]
    if size in (0, ABSENT):
        return None if size else b""
    start = max(start for start, _ in spans if start <= offset)
    content = next(part for span, part in spans.items() if span[0] == start)
    content = content[offset - start : offset - start + size]
    if record.crc32s is not None and zlib.crc32(content) != record.crc32s[column]:
        raise DataError(
            f"a file of {record.key} in {path} differs from its checksum; the tar is damaged, or "
            "changed after its index was made",
            reason="checksum",
        )
    return content


# Consecutive samples of a remote tar, which are cheap to fetch with one request.
REMOTE_BLOCK = 256

_TAR_WITHIN = re.compile(r"\.tar(?=/)")


class ShardsConfig(SelectionConfig):
    """Settings of tar shards."""

    kind: str = "shards"

    index_folder: str = ""
    """Folder of the tar indexes. By default they are stored next to the tars, or in the user's
    cache (`~/.cache/coca/index`) if that folder is read-only. A URL: a folder that `coca data index
    --index-folder` has filled; only its catalog of these tars is copied, 0.2 kB per tar."""

    block_size: NonNegativeInt = 0
    """Consecutive samples that are read together. 0 means 1 for local files and 256 for remote
    files. A larger block reads faster and shuffles less."""


@register_source("shards", ShardsConfig)
class ShardSource(Source):
    """Random-access source over a list of tar shards, in the order of the list.

    Tars without an index are indexed by their headers. Where the index has checksums, every file is
    verified when it is read.

    Args:
        config: Its `path` names tars, folders and glob patterns.
        checksums: Index with checksums, so that `etag` follows the content of a sample.
        on_bad: Called with the path and error of each unreadable tar, which is then skipped.
        allow_overlap: Read a tar once that several paths name, instead of raising.
    """

    def __init__(
        self,
        config: ShardsConfig,
        *,
        checksums: bool = False,
        on_bad: Callable[[str, DataError], object] | None = None,
        allow_overlap: bool = False,
    ) -> None:
        self._storage = Storage()
        paths = self._storage.find(config.paths, suffix=".tar", allow_overlap=allow_overlap)
        named = {full_path(path) for given in config.paths for path in expand_braces(given)}
        self._patterns = [path for path in named if "*" in path]
        self._plain = named.difference(self._patterns)

        def index(path: str) -> TarIndex | DataError:
            try:
                return load_index(
                    path, self._storage, folder=config.index_folder, checksums=checksums
                )
            except DataError as error:
                if on_bad is None:
                    raise
                return error

        found: dict[str, TarIndex | DataError] = {}
        found |= listed_indexes(
            paths, self._storage, folder=config.index_folder, checksums=checksums
        )
        others = [path for path in paths if path not in found]
        with ThreadPoolExecutor(INDEX_THREADS) as pool:
            found |= zip(others, pool.map(index, others), strict=True)
        indexes = {path: found[path] for path in paths}
        self._tars = [tar for tar in indexes.values() if isinstance(tar, TarIndex)]
        bad = {path: error for path, error in indexes.items() if isinstance(error, DataError)}
        for path, error in bad.items():
            assert on_bad is not None
            on_bad(path, error)
        self._files = {full_path(tar.path) for tar in self._tars}
        self._left_out = set(map(full_path, bad))
        self._ends = np.cumsum([len(tar) for tar in self._tars])
        self._rows: np.ndarray | None = None
        self._rows = selected_rows(self._metadata, len(self), config)
        digests = b"".join(tar.digest() for tar in self._tars)
        chosen = b"" if self._rows is None else self._rows.tobytes()
        self.fingerprint = hashlib.sha256(digests + chosen).hexdigest()[:16]
        """Hash of the names of all tars, of keys and sizes in them, and of the selected rows."""
        default_block = REMOTE_BLOCK if any(map(is_remote, paths)) else 1
        self.block_size = config.block_size or default_block

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return int(self._ends[-1]) if self._tars else 0

    def key(self, row: int) -> str:
        """Return the key of the sample in its tar."""
        return self._record(row)[1].key

    def paths(self, row: int) -> tuple[str]:
        """Return the full path or URL of the tar, followed by the key."""
        tar, record = self._record(row)
        return (f"{full_path(tar.path)}/{record.key}",)

    def etag(self, row: int) -> str:
        """Hash the sizes of the sample's files with their checksums, else with the tar's state."""
        tar, record = self._record(row)
        state = sorted(tar.state.items()) if record.crc32s is None else record.crc32s
        return hashlib.sha256(f"{record.sizes} {state}".encode()).hexdigest()[:16]

    def owned(self, path: str, etag: str) -> bool:
        """Return whether a path belongs to a tar of this source, or to a deleted tar of it.

        Not owned: members of an existing file that is not one of these tars, and members of tars
        whose whole folder is missing or empty, since its drive may not be mounted.
        """
        tars = [path[: found.end()] for found in _TAR_WITHIN.finditer(path)]
        if any(tar in self._left_out for tar in tars):
            return False
        if any(tar in self._files for tar in tars):
            return True
        named = [tar for tar in tars if self._is_named(tar)]
        if is_remote(path):
            return bool(named)
        there = nearest(path) or ""
        exists = os.path.isdir(there) and any(os.path.dirname(tar) == there for tar in named)
        return exists and not doubt(there)

    def _is_named(self, tar: str) -> bool:
        plain = tar in self._plain or os.path.dirname(tar) in self._plain
        return plain or any(matches(tar, pattern) for pattern in self._patterns)

    def read(self, row: int) -> Sample:
        """Read the sample in a row; `DataError` if it is damaged or has no image."""
        (result,) = self.read_many([row])
        if isinstance(result, DataError):
            raise result
        return result

    def read_many(self, rows: Sequence[int]) -> list[Sample | DataError]:
        """Read the samples of many rows, with one request for each remote tar."""
        located = [self._locate(row) for row in rows]
        by_tar: dict[str | int, list[int]] = defaultdict(list)
        for number, (tar, _) in enumerate(located):
            # Local reads gain nothing from batching, and separate reads fail separately.
            by_tar[tar.path if is_remote(tar.path) else number].append(number)
        results: list[Sample | DataError | None] = [None] * len(rows)
        for numbers in by_tar.values():
            tar = located[numbers[0]][0]
            found = read_tar(self._storage, tar, [located[number][1] for number in numbers])
            for number, result in zip(numbers, found, strict=True):
                results[number] = result
        return [result for result in results if result is not None]

    def _metadata(self, row: int) -> Sample:
        """Read the sample in a row without its image; no byte of the image is read."""
        tar, local_row = self._locate(row)
        (result,) = read_tar(self._storage, tar, [local_row], columns=(TEXT, JSON, LABEL))
        if isinstance(result, DataError):
            raise result
        return result

    def _record(self, row: int) -> tuple[TarIndex, TarSample]:
        tar, local_row = self._locate(row)
        return tar, tar.read([local_row])[0]

    def _locate(self, row: int) -> tuple[TarIndex, int]:
        row = row if self._rows is None else int(self._rows[row])
        number = int(np.searchsorted(self._ends, row, side="right"))
        tar = self._tars[number]
        return tar, row - int(self._ends[number]) + len(tar)


class ShardWriter:
    """Writer of tar shards `NAME-000000.tar`, .. for ShardSource and WebDataset.

    The output is deterministic: equal samples give equal bytes. A tar is held in memory until it is
    complete, then written atomically together with its index. If the body of the `with` raises, the
    incomplete tar is discarded.

    Args:
        folder: Created if missing; must not contain tars of this name.
        samples_per_shard: Samples in each tar, at least 1; the last tar may have fewer.
        name: Prefix of the file names.

    Raises:
        ConfigError: The folder already contains such tars, so old and new shards would be mixed.

    Example:
        >>> with ShardWriter("shards") as writer:  # doctest: +SKIP
        ...     writer.write(Sample("a", image=content, captions=("a red car",)))
    """

    def __init__(
        self, folder: str | Path, *, samples_per_shard: int = 1000, name: str = "shard"
    ) -> None:
        self.folder = Path(folder)
        self.samples_per_shard = samples_per_shard
        self.name = name
        self.paths: list[Path] = []
        """Paths of the tars written so far."""
        self._waiting: dict[str, list[tuple[str, bytes]]] = {}
        if samples_per_shard < 1:
            raise ConfigError(f"samples_per_shard is {samples_per_shard}; it must be at least 1")
        if any(self.folder.glob(f"{name}-*.tar")):
            raise ConfigError(
                f"{folder} has shards called {name}-*.tar already; remove them or take another "
                "folder"
            )

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._waiting:
            self._finish()

    def write(self, sample: Sample) -> None:
        """Add a sample."""
        _check_key(sample.key)
        if sample.key in self._waiting:
            raise DataError(f"the key {sample.key} is written twice", reason="duplicate_key")
        self._waiting[sample.key] = _members(sample)
        if len(self._waiting) == self.samples_per_shard:
            self._finish()

    def _finish(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for members in self._waiting.values():
                for name, content in members:
                    # Owner and modification time stay 0, so that equal samples give equal bytes.
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        path = self.folder / f"{self.name}-{len(self.paths):06d}.tar"
        write_atomic(path, buffer.getvalue())
        buffer.seek(0)
        write_index(str(path), scan_tar(buffer, str(path), checksums=True), Storage())
        self.paths.append(path)
        self._waiting.clear()


def _check_key(key: str) -> None:
    parts = key.split("/")
    if not all(parts) or any("." in part for part in parts) or not key.isprintable():
        raise DataError(
            f"the key {key!r} cannot be written: it must be printable characters without dots, "
            "since WebDataset splits names at the first dot, with / between folders",
            reason="bad_key",
        )


def _members(sample: Sample) -> list[tuple[str, bytes]]:
    """Return the tar members of a sample as (name, content), sorted by name."""
    record: dict[str, Any] = dict(sample.metadata)
    if taken := record.keys() & {"caption", "captions", "label", "labels"}:
        raise DataError(
            f"sample {sample.key} has metadata called {sorted(taken)[0]!r}, a name that is taken",
            reason="bad_record",
        )
    members = {f"{sample.key}.{_extension(sample)}": sample.image}
    if sample.captions:
        record["captions"] = list(sample.captions)
    if sample.labels:
        record["labels"] = list(sample.labels)
    try:
        if record:
            text = json.dumps(record, ensure_ascii=False, sort_keys=True)
            members[f"{sample.key}.json"] = text.encode()
        if sample.captions:
            # For readers that support only one caption.
            members[f"{sample.key}.txt"] = sample.captions[0].encode()
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the words or metadata of {sample.key} do not fit into JSON: {error}",
            reason="bad_record",
        ) from error
    return sorted(members.items())


def _extension(sample: Sample) -> str:
    """Detect the file extension from the first bytes of the image."""
    image = sample.image
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    starts = {
        b"\xff\xd8\xff": "jpg",
        b"\x89PNG": "png",
        b"GIF8": "gif",
        b"BM": "bmp",
        b"II*\0": "tif",
        b"MM\0*": "tif",
    }
    for start, extension in starts.items():
        if image.startswith(start):
            return extension
    raise DataError(
        f"sample {sample.key} is not a {IMAGE_FORMATS_SHOWN} image",
        reason="not_an_image",
    )
