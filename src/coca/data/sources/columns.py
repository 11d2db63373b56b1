"""A table as a source: which columns hold images, words and answers, and a sample of each row."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample, first_texts, split_record
from coca.data.sources.base import SourceConfig
from coca.data.sources.tables import (
    Table,
    as_number,
    numeric_columns,
    open_table,
    part_of,
    select,
)
from coca.data.storage.storage import full_path

logger = logging.getLogger(__name__)

# Where the parts of a sample usually stand; the first column that holds something wins.
IMAGE_COLUMNS = ("image", "path", "filepath", "file_name", "filename", "url", "images")
CAPTION_COLUMNS = ("captions", "caption", "text", "title")
LABEL_COLUMNS = ("labels", "label")
TEXT_COLUMNS = ("question", "sentence", "hypothesis")
ANSWER_COLUMNS = ("answers", "answer")
KEY_COLUMNS = ("key", "id")

TABLE_SETTINGS = (
    "image_column",
    "caption_column",
    "label_column",
    "text_column",
    "answer_column",
    "where",
    "part",
    "read_from",
)
"""What each source of a table reads of `SourceConfig`."""


@dataclass(frozen=True)
class Columns:
    """Names of columns, the usual ones or those of a recipe; any other becomes metadata."""

    image: tuple[str, ...]
    """The image: a name, or its bytes; a list of them is several images of one sample."""
    caption: tuple[str, ...]
    label: tuple[str, ...]
    text: tuple[str, ...]
    """The question or claim."""
    answer: tuple[str, ...]

    @classmethod
    def of(cls, config: SourceConfig) -> "Columns":
        """Those that a source's settings name."""
        return cls(
            image=_chosen(config.image_column, IMAGE_COLUMNS),
            caption=_chosen(config.caption_column, CAPTION_COLUMNS),
            label=_chosen(config.label_column, LABEL_COLUMNS),
            text=_chosen(config.text_column, TEXT_COLUMNS),
            answer=_chosen(config.answer_column, ANSWER_COLUMNS),
        )

    def pictures(self, record: Mapping[str, Any], origin: str) -> list[str | bytes]:
        """Names or contents of a row's images, one at least.

        Raises:
            DataError: There is none (reason `"no_image"`).
        """
        value = _first(record, self.image)
        found = [_picture(one) for one in (value if isinstance(value, list) else [value])]
        pictures = [one for one in found if one is not None]
        if not pictures or len(pictures) < len(found):
            names = ", ".join(self.image)
            raise DataError(f"{origin} names no image in {names}", reason="no_image")
        return pictures

    def key(self, record: Mapping[str, Any], row: int) -> str:
        """The column `key` or `id`, else the path of the first image, else the row's number."""
        key = _first(record, KEY_COLUMNS)
        if key is None:
            key = _first(record, self.image)
        first = key[0] if isinstance(key, list) and key else key
        return str(first) if isinstance(first, str | int) else str(row)

    def sample(
        self, record: Mapping[str, Any], *, key: str, origin: str, images: Sequence[bytes]
    ) -> Sample:
        """A row as a sample with these images; none makes one of words alone.

        Raises:
            DataError: A caption, label, text or answer is not text (reason `"bad_record"`).
        """
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
        """Tell of a wrong column before the run, not as a million bad samples.

        Bytes that are not the image fit into no metadata: they are left out, with a warning.

        Raises:
            ConfigError: The first row has no column for the image.
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
                logger.warning("%s holds bytes in the column %s; they are left out", path, name)

    @property
    def named(self) -> set[str]:
        """All columns with a meaning, which no metadata come from."""
        return {*self._others, *self.caption, *self.label}

    @property
    def _others(self) -> set[str]:
        """The columns that no metadata come from, beside captions and labels."""
        return {*self.image, *self.text, *self.answer, *KEY_COLUMNS}


@runtime_checkable
class PictureFiles(Protocol):
    """Where a table's images stand."""

    def read(self, name: str) -> bytes:
        """The content of one; `DataError` if it is missing or damaged."""
        ...

    def place(self, name: str) -> str:
        """The same for every working folder: a full path, a URL, or a name within an archive."""
        ...

    def stamp(self, name: str) -> str:
        """Changes when the image does; empty where only reading it would tell."""
        ...


class TableSource:
    """The rows of a table, one sample each.

    Args:
        content: The table, as its file holds it.
        path: What the file is called; its suffix tells the kind of table.
        files: Where its images stand.
        config: Names columns, and the rows to read.

    Raises:
        DataError: The table is damaged, or of an unknown kind.
        ConfigError: The first row has no column for the image, or no row fits `where` and `part`.
    """

    block_size = 1

    def __init__(
        self, content: bytes, path: str, files: PictureFiles, config: SourceConfig
    ) -> None:
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
        """Hash of the table and of the choice of rows; the images are not looked at."""
        self._columns.check(self._table, path)
        self._full_path = full_path(path)
        self._mark = hashlib.sha256(self._full_path.encode()).hexdigest()[:8] + ":"

    def __len__(self) -> int:
        return len(self._table)

    def key(self, row: int) -> str:
        """The column `key` or `id`, else the path of the image, else the row's number."""
        try:
            return self._columns.key(self._table.row(row), row)
        except DataError:
            return str(row)

    def places(self, row: int) -> tuple[str, ...]:
        """Full paths or URLs; the table and the key of what stands in the table itself."""
        inside = f"{self._full_path}/{self.key(row)}"
        try:
            pictures = self._columns.pictures(self._table.row(row), self._origin(row))
        except DataError:
            return (inside,)
        return tuple(
            self._files.place(one) if isinstance(one, str) else f"{inside}#{n}" if n else inside
            for n, one in enumerate(pictures)
        )

    def stamp(self, row: int) -> str:
        """Names the table, and changes with the row and with its images where they are files."""
        record = self._record(row)
        pictures = self._columns.pictures(record, self._origin(row))
        named = [self._files.stamp(one) for one in pictures if isinstance(one, str)]
        text = json.dumps([record, named], sort_keys=True, default=_brief)
        return f"{self._mark}{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def owned(self, place: str, stamp: str) -> bool:
        """Whether the stamp names this table."""
        return stamp.startswith(self._mark)

    def words(self, row: int) -> Sample:
        """The sample in this row without its images; `DataError` if the row is damaged."""
        return self._sample(self._record(row), row, images=())

    def read(self, row: int) -> Sample:
        """The sample in this row; `DataError` if the row is damaged or an image is missing."""
        record = self._record(row)
        pictures = self._columns.pictures(record, self._origin(row))
        images = [self._files.read(one) if isinstance(one, str) else one for one in pictures]
        return self._sample(record, row, images=images)

    def _record(self, row: int) -> dict[str, Any]:
        """The row, with numbers where a CSV has a column of them."""
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


def _picture(value: Any) -> str | bytes | None:
    if isinstance(value, Mapping):
        # How Hugging Face data sets store images in Parquet.
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, str | bytes) else None
