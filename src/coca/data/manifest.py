"""A table that names pictures and their words: JSON lines, CSV (also by tabs), or Parquet."""

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.data.sample import Sample, parse_record, parse_text, split_record
from coca.data.sources import SOURCES, SourceConfig, single_path
from coca.data.storage import Storage, is_remote

# Where the parts of a sample usually stand, the first that holds something wins.
IMAGE_COLUMNS = ("image", "path", "filepath", "file_name", "filename", "url")
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
LABEL_COLUMNS = ("labels", "label")
KEY_COLUMNS = ("key", "id")


@runtime_checkable
class Table(Protocol):
    """Rows of a manifest, each parsed only when it is read."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> Mapping[str, Any]:
        """Names of columns to values."""
        ...


@SOURCES.register("manifest")
class ManifestSource:
    """The rows of a table, one sample each.

    The picture is a path (relative ones start at the manifest's folder), a URL, or, in Parquet,
    the file's bytes. Columns have usual names (see the head of this module) or those
    that the config gives. Columns with another meaning become metadata. The key is the column
    `key` or `id`, else the path.

    Raises:
        DataError: The manifest is missing, damaged, or of an unknown kind.
        ConfigError: The first row has no column for the picture.
    """

    block_size = 1

    def __init__(self, config: SourceConfig) -> None:
        self._path = single_path(config)
        self._folder = self._path.replace(os.sep, "/").rpartition("/")[0]
        self._storage = Storage()
        content = self._storage.read_all(self._path)
        self._table = _open_table(content, self._path)
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]
        """Hash of the manifest; the pictures themselves are not looked at."""
        self._image_columns = _columns(config.image_column, IMAGE_COLUMNS)
        self._caption_columns = _columns(config.caption_column, CAPTION_COLUMNS)
        self._label_columns = _columns(config.label_column, LABEL_COLUMNS)
        self._check_columns()

    def __len__(self) -> int:
        return len(self._table)

    def key(self, row: int) -> str:
        """The column `key` or `id`, else the path of the picture, else the row's number."""
        try:
            return self._key(self._table.row(row), row)
        except DataError:
            return str(row)

    def read(self, row: int) -> Sample:
        """The sample in this row; `DataError` if the row is damaged or its picture is missing."""
        record = self._table.row(row)
        captions, labels, rest = split_record(
            record,
            f"row {row} of {self._path}",
            caption_names=self._caption_columns,
            label_names=self._label_columns,
        )
        image = self._image(record, row)
        columns = {*self._image_columns, *KEY_COLUMNS}
        metadata = {name: value for name, value in rest.items() if name not in columns}
        return Sample(self._key(record, row), image, captions, labels, metadata)

    def _image(self, record: Mapping[str, Any], row: int) -> bytes:
        image = _first(record, self._image_columns)
        if isinstance(image, Mapping):
            # How Hugging Face data sets store pictures in Parquet.
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes):
            return image
        if not isinstance(image, str):
            names = ", ".join(self._image_columns)
            raise DataError(
                f"row {row} of {self._path} names no picture in {names}", reason="no_image"
            )
        return self._storage.read_all(self._resolved(image))

    def _resolved(self, image: str) -> str:
        if is_remote(image) or os.path.isabs(image) or not self._folder:
            return image
        return f"{self._folder}/{image}"

    def _key(self, record: Mapping[str, Any], row: int) -> str:
        key = _first(record, KEY_COLUMNS)
        if key is None:
            key = _first(record, self._image_columns)
        return str(key) if isinstance(key, str | int) else str(row)

    def _check_columns(self) -> None:
        """Tell of a wrong column before the run, not as a million bad samples."""
        if not len(self):
            return
        try:
            record = self._table.row(0)
        except DataError:
            return
        if not any(name in record for name in self._image_columns):
            raise ConfigError(
                f"{self._path} has the columns {', '.join(record)}, but none of "
                f"{', '.join(self._image_columns)}; set image_column to the one with the pictures"
            )


def _columns(chosen: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (chosen,) if chosen else usual


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _open_table(content: bytes, path: str) -> Table:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".jsonl", ".ndjson"):
        return _JsonLines(content, path)
    if suffix in (".csv", ".tsv"):
        return _Csv(content, path)
    if suffix == ".parquet":
        return _Parquet(content, path)
    raise DataError(
        f"{path} ends in {suffix or 'no suffix'}; a manifest is .jsonl, .csv, .tsv or .parquet",
        reason="unknown_kind",
    )


class _JsonLines:
    def __init__(self, content: bytes, path: str) -> None:
        self._content = content
        self._path = path
        # Only where the lines stand is kept, not what they say; a `\r` before the break is blank.
        breaks = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], breaks + 1])
        ends = np.concatenate([breaks, [len(content)]])
        spans = np.stack([starts, ends], axis=1)
        filled = [bool(content[start:end].strip()) for start, end in spans.tolist()]
        self._spans = spans[filled]

    def __len__(self) -> int:
        return len(self._spans)

    def row(self, number: int) -> Mapping[str, Any]:
        start, end = self._spans[number].tolist()
        return parse_record(self._content[start:end], f"row {number} of {self._path}")


class _Csv:
    def __init__(self, content: bytes, path: str) -> None:
        text = parse_text(content, path).removeprefix("\ufeff")
        first_line = text.partition("\n")[0]
        # Tabs are told by the header, since such files often end in .csv all the same.
        delimiter = "\t" if "\t" in first_line and "," not in first_line else ","
        self._path = path
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            self._names = next(rows, [])
            self._rows = [row for row in rows if row]
        except csv.Error as error:
            raise DataError(f"{path} is no CSV: {error}", reason="bad_table") from error

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> Mapping[str, Any]:
        values = self._rows[number]
        if len(values) != len(self._names):
            raise DataError(
                f"row {number} of {self._path} has {len(values)} values for "
                f"{len(self._names)} columns",
                reason="bad_record",
            )
        return dict(zip(self._names, values, strict=True))


class _Parquet:
    def __init__(self, content: bytes, path: str) -> None:
        arrow = require("pyarrow", extra="data")
        parquet = require("pyarrow.parquet", extra="data")
        try:
            self._table = parquet.read_table(arrow.BufferReader(content)).combine_chunks()
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is no Parquet file: {error}", reason="bad_table") from error

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, number: int) -> Mapping[str, Any]:
        return self._table.slice(number, 1).to_pylist()[0]
