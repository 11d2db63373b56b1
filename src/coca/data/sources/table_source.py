"""Table sources: columns mapped to images, captions, labels and answers; one sample per row."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from coca.core.annotations import first_texts, split_record
from coca.core.errors import ConfigError, DataError
from coca.core.files.local_files import MAX_IMAGE_BYTES, file_etag
from coca.data.sample import Sample
from coca.data.sources.source import SelectionConfig, Source, register_source, single_path
from coca.data.sources.table import (
    Table,
    as_number,
    numeric_columns,
    open_table,
    part_of,
    rows_of,
    select,
)
from coca.data.storage.storage import Storage, full_path, is_remote
from coca.data.storage.url_policy import Reach

# Table source: map columns to images, captions, labels and answers; one sample per row.


logger = logging.getLogger(__name__)

# Default column names; the first non-empty column takes precedence.
IMAGE_COLUMNS = ("image", "path", "filepath", "file_name", "filename", "url", "images")
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
LABEL_COLUMNS = ("labels", "label")
TEXT_COLUMNS = ("question", "sentence", "hypothesis")
ANSWER_COLUMNS = ("answers", "answer")
KEY_COLUMNS = ("key", "id")


class TableConfig(SelectionConfig):
    """Settings of tables, in a file or in a zip."""

    image_column: str = ""
    """Column of the image, if it has no usual name such as `image` or `path`. A list in it is
    several images of one sample."""

    caption_column: str = ""
    """Column of the caption, if it has no usual name such as `caption`."""

    label_column: str = ""
    """Column of the label, if it is not `labels` or `label`."""

    text_column: str = ""
    """Column of the question or statement, if it is not `question`, `sentence` or
    `hypothesis`."""

    answer_column: str = ""
    """Column of the answers, if it is not `answers` or `answer`."""

    read_from: tuple[str, ...] = ()
    """Folders and URL prefixes that the rows of a manifest may additionally name. Always allowed
    are local files (of a local manifest), its own host, object stores and public web addresses.
    `file://` and addresses of this machine and of private networks need an entry here."""


@dataclass(frozen=True)
class Columns:
    """Column names, default or from a recipe; all other columns become metadata."""

    image: tuple[str, ...]
    """Image: a path, or its bytes; a list of them is several images of one sample."""
    caption: tuple[str, ...]
    label: tuple[str, ...]
    text: tuple[str, ...]
    """Question or statement."""
    answer: tuple[str, ...]

    @classmethod
    def of(cls, config: TableConfig) -> "Columns":
        """Build the column names from the settings of a source."""
        return cls(
            image=_chosen(config.image_column, IMAGE_COLUMNS),
            caption=_chosen(config.caption_column, CAPTION_COLUMNS),
            label=_chosen(config.label_column, LABEL_COLUMNS),
            text=_chosen(config.text_column, TEXT_COLUMNS),
            answer=_chosen(config.answer_column, ANSWER_COLUMNS),
        )

    def images(self, record: Mapping[str, Any], origin: str) -> list[str | bytes]:
        """Return the paths or contents of a row's images, at least one."""
        value = _first(record, self.image)
        found = [_image(one) for one in (value if isinstance(value, list) else [value])]
        images = [one for one in found if one is not None]
        if not images or len(images) < len(found):
            names = ", ".join(self.image)
            raise DataError(f"{origin} names no image in {names}", reason="no_image")
        return images

    def key(self, record: Mapping[str, Any], row: int) -> str:
        """Return the column `key` or `id`, else the first image path, else the row number."""
        key = _first(record, KEY_COLUMNS)
        if key is None:
            key = _first(record, self.image)
        first = key[0] if isinstance(key, list) and key else key
        return str(first) if isinstance(first, str | int) else str(row)

    def sample(
        self, record: Mapping[str, Any], *, key: str, origin: str, images: Sequence[bytes]
    ) -> Sample:
        """Build the sample of a row with the given images; without any, it has text only."""
        captions, labels, rest = split_record(
            record, origin, caption_names=self.caption, label_names=self.label
        )
        texts = first_texts(rest, origin, self.text)
        answers = first_texts(rest, origin, self.answer)
        return Sample(
            key,
            images[0] if images else b"",
            captions,
            labels,
            {
                name: value
                for name, value in rest.items()
                if name not in self._others and not _holds_bytes(value)
            },
            text=texts[0] if texts else "",
            answers=answers,
            others=tuple(images[1:]),
        )

    def check(self, table: Table, path: str) -> None:
        """Validate the columns before the run, instead of a million bad samples.

        Columns of bytes other than the image cannot be metadata; they are skipped with a warning.
        """
        if not len(table):
            return
        try:
            record = table.row(0)
        except DataError:
            return
        if not any(name in record for name in self.image):
            raise ConfigError(
                f"{path} has the columns {', '.join(record)}, but none of "
                f"{', '.join(self.image)}; set image_column to the one with the images"
            )
        for name, value in record.items():
            if name not in self._others and _holds_bytes(value):
                logger.warning("%s contains bytes in the column %s; they are left out", path, name)

    @property
    def named(self) -> set[str]:
        """All columns that are not metadata."""
        return {*self._others, *self.caption, *self.label}

    @property
    def _others(self) -> set[str]:
        """The columns that are not metadata, except captions and labels."""
        return {*self.image, *self.text, *self.answer, *KEY_COLUMNS}


@runtime_checkable
class ImageFiles(Protocol):
    """Access to the image files of a table."""

    def read(self, name: str) -> bytes:
        """Read the content of a file; `DataError` if it is missing or damaged."""
        ...

    def path(self, name: str) -> str:
        """Return the absolute path, URL or path in an archive."""
        ...

    def etag(self, name: str) -> str:
        """Return a value that changes with the image; empty if only its content can show that."""
        ...


class TableSource(Source):
    """The rows of a table, one sample each."""

    has_metadata = True

    def __init__(self, content: bytes, path: str, files: ImageFiles, config: TableConfig) -> None:
        self._path = path
        self._files = files
        table = open_table(content, path)
        self._columns = Columns.of(config)
        named = self._columns.named
        self._numbers = {
            name: kind for name, kind in numeric_columns(table).items() if name not in named
        }
        chosen = select(table, config.where, path)
        self._table = part_of(chosen, config.part, path)
        digest = hashlib.sha256(content)
        if config.where:
            digest.update(repr(sorted(config.where.items())).encode())
        if config.part:
            digest.update(repr(config.part).encode())
        self.fingerprint = digest.hexdigest()[:16]
        """Hash of the table and of the selected rows, without the images."""
        self._columns.check(self._table, path)
        self._full_path = full_path(path)
        self._mark = hashlib.sha256(self._full_path.encode()).hexdigest()[:8] + ":"

    def __len__(self) -> int:
        return len(self._table)

    def key(self, row: int) -> str:
        """Return the column `key` or `id`, else the path of the image, else the row number."""
        try:
            return self._columns.key(self._table.row(row), row)
        except DataError:
            return str(row)

    def paths(self, row: int) -> tuple[str, ...]:
        """Return full paths or URLs; for images inside the table, its path and the key."""
        inside = f"{self._full_path}/{self.key(row)}"
        try:
            images = self._columns.images(self._table.row(row), self._origin(row))
        except DataError:
            return (inside,)
        return tuple(
            self._files.path(one) if isinstance(one, str) else f"{inside}#{n}" if n else inside
            for n, one in enumerate(images)
        )

    def etag(self, row: int) -> str:
        """Return a hash that identifies the table and changes with the row and its image files."""
        record = self._record(row)
        images = self._columns.images(record, self._origin(row))
        named = [self._files.etag(one) for one in images if isinstance(one, str)]
        text = json.dumps([record, named], sort_keys=True, default=_brief)
        return f"{self._mark}{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def owned(self, path: str, etag: str) -> bool:
        """Return whether the etag belongs to this table."""
        return etag.startswith(self._mark)

    def read_metadata(self, row: int) -> Sample:
        """Return the sample in a row without its images; `DataError` if the row is damaged."""
        return self._sample(self._record(row), row, images=())

    def read(self, row: int) -> Sample:
        """Read the sample in a row; `DataError` if the row is damaged or an image is missing."""
        record = self._record(row)
        found = self._columns.images(record, self._origin(row))
        images = [self._files.read(one) if isinstance(one, str) else one for one in found]
        return self._sample(record, row, images=images)

    def _record(self, row: int) -> dict[str, Any]:
        """Return the row, with the values of numeric CSV columns as numbers."""
        record = dict(self._table.row(row))
        for name, kind in self._numbers.items():
            record[name] = as_number(record[name], kind)
        return record

    def _sample(self, record: Mapping[str, Any], row: int, *, images: Sequence[bytes]) -> Sample:
        key = self._columns.key(record, row)
        return self._columns.sample(record, key=key, origin=self._origin(row), images=images)

    def _origin(self, row: int) -> str:
        return f"row {row} of {self._path}"


def _brief(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_bytes, value.values()))
    return isinstance(value, bytes) or (isinstance(value, list) and any(map(_holds_bytes, value)))


def _chosen(name: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    return (name,) if name else usual


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def _image(value: Any) -> str | bytes | None:
    if isinstance(value, Mapping):
        # The image feature of Hugging Face datasets in Parquet.
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) else None


# Filter the samples of a source by sidecar fields with `where` and `part`, as in a table.


def selected_rows(
    metadata_of: Callable[[int], Sample], count: int, config: SelectionConfig
) -> Int64[np.ndarray, " N"] | None:
    """Find the rows that match `config.where` and `config.part`; None if both are unset.

    The sidecar of each sample is read once. Columns are its fields, `key`, and `label`, the first
    label. A sample with a damaged sidecar is kept, so that reading it reports the error.
    """
    if not config.where and config.part is None:
        return None
    chosen = select(_Sidecars(metadata_of, count), config.where, config.title)
    return rows_of(part_of(chosen, config.part, config.title))


class _Sidecars:
    """Table view of the metadata of all samples."""

    def __init__(self, metadata_of: Callable[[int], Sample], count: int) -> None:
        self._metadata_of = metadata_of
        self._count = count

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> Mapping[str, Any]:
        sample = self._metadata_of(number)
        labels = {"label": sample.labels[0]} if sample.labels else {}
        return {"key": sample.key, **sample.metadata, **labels}


# Manifest source: a JSON-lines, CSV, TSV or Parquet table of images and their text.


class _Files:
    """Image files by path or URL; relative paths start at the manifest's folder.

    Reading a path that the manifest may not name (`Reach`) raises `DataError`.
    """

    def __init__(self, folder: str, storage: Storage, reach: Reach) -> None:
        self._folder = folder
        self._storage = storage
        self._reach = reach

    def read(self, name: str) -> bytes:
        path = self._resolved(name)
        self._reach.check(path)
        return self._storage.read_all(path, max_bytes=MAX_IMAGE_BYTES)

    def path(self, name: str) -> str:
        return full_path(self._resolved(name))

    def etag(self, name: str) -> str:
        return file_etag(self._resolved(name))

    def _resolved(self, name: str) -> str:
        if is_remote(name) or os.path.isabs(name) or not self._folder:
            return name
        return f"{self._folder}/{name}"


class ManifestConfig(TableConfig):
    """Settings of a table of images."""

    kind: str = "manifest"


@register_source("manifest", ManifestConfig)
def manifest_source(config: ManifestConfig) -> TableSource:
    """Open a table whose rows are the samples.

    The image is a path (relative ones start at the manifest's folder), a URL, or, in Parquet,
    the file's bytes; a list of them is several images of one sample. URLs of this machine and of
    private networks, and schemes such as `file`, are read only from `read_from` (`Reach`). Columns
    have default names (see `coca.data.sources.table_source`) or those of the config. All other
    columns become metadata. The key is the column `key` or `id`, else the path.
    """
    path, storage = single_path(config), Storage()
    folder = path.replace(os.sep, "/").rpartition("/")[0]
    files = _Files(folder, storage, Reach(path, config.read_from))
    return TableSource(storage.read_all(path), path, files, config)
