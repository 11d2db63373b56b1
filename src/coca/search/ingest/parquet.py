"""Parquet files of embedded records, for import into a collection or migration to another.

The columns are those of a collection with both vectors in one row, so that Milvus can also import
the files itself.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coca.core.errors import DataError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic
from coca.search import records
from coca.search.milvus.rows import to_record, to_row
from coca.search.records import Record

_ABOUT = b"coca.vectors"
_BATCH_ROWS = 1_000


@dataclass(frozen=True, kw_only=True)
class VectorsInfo:
    """Description in a vectors file."""

    fingerprint: str
    """Fingerprint of the model that computed the vectors."""
    embed_dim: int
    model: str
    """Name or folder of that model."""
    source: str
    """Source of the images, such as a tar."""
    images: int
    """Number of images in the file; identical images share a row."""
    bad: int
    """Number of rejected images."""


def write_vectors(
    path: str | Path, batch: Sequence[Record], about: VectorsInfo | None = None
) -> None:
    """Write embedded records to a file atomically; `about` makes it a vectors file."""
    arrow = require("pyarrow", extra="search")
    parquet = require("pyarrow.parquet", extra="search")
    if batch and about is not None:
        records.check_records(batch, about.embed_dim)
    schema = _schema(arrow, about)
    table = arrow.Table.from_pylist([_to_plain(record) for record in batch], schema)
    stream = io.BytesIO()
    parquet.write_table(table, stream, compression="zstd")
    write_atomic(path, stream.getvalue())


def find_vectors(path: str | Path) -> list[Path]:
    """Find the vectors files at a path: the file itself, or those in a folder."""
    path = Path(path)
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    # A FIFO would wait for a writer forever.
    files = (file for file in found if file.suffix == ".parquet" and file.is_file())
    return [file for file in files if _about(file) is not None]


def read_info(path: str | Path) -> VectorsInfo:
    """Read the description of a vectors file."""
    about = _about(Path(path))
    if about is None:
        raise DataError(f"{path} is not a vectors file", reason="unknown_kind")
    return about


def read_vectors(path: str | Path) -> Iterator[Record]:
    """Iterate over the records of a file that `write_vectors` wrote."""
    arrow = require("pyarrow", extra="search")
    parquet = require("pyarrow.parquet", extra="search")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    row[records.METADATA] = json.loads(row[records.METADATA])
                    row[records.ORIGIN] = json.loads(row[records.ORIGIN])
                    captioned = row[records.HAS_TEXT]
                    yield to_record(row, row[records.TEXT_VECTOR] if captioned else None)
    except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged: {error}", reason="bad_table") from error


def _about(path: Path) -> VectorsInfo | None:
    arrow = require("pyarrow", extra="search")
    parquet = require("pyarrow.parquet", extra="search")
    try:
        metadata = parquet.read_schema(path).metadata or {}
    except (arrow.ArrowException, OSError):
        return None
    if _ABOUT not in metadata:
        return None
    try:
        return VectorsInfo(**json.loads(metadata[_ABOUT]))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} was written by another version of coca, or is damaged: embed its images again",
            reason="bad_table",
        ) from error


def _to_plain(record: Record) -> dict[str, Any]:
    row = to_row(record)
    # As in a collection: the image's vector is the placeholder, marked by `has_text`.
    vector = record.vector if record.text_vector is None else record.text_vector
    return row | {
        records.TEXT_VECTOR: np.asarray(vector, dtype=np.float32),
        records.METADATA: json.dumps(row[records.METADATA], ensure_ascii=False),
        records.ORIGIN: json.dumps(row[records.ORIGIN], ensure_ascii=False),
    }


def _schema(arrow: Any, about: VectorsInfo | None) -> Any:
    text, number, vector = arrow.string(), arrow.int64(), arrow.list_(arrow.float32())
    types = {
        records.ID: text,
        records.VECTOR: vector,
        records.TEXT_VECTOR: vector,
        records.PATH: text,
        records.CAPTION: text,
        records.WIDTH: number,
        records.HEIGHT: number,
        records.TIME: number,
        records.TAGS: arrow.list_(text),
        records.ALBUM: text,
        records.METADATA: text,
        records.HAS_TEXT: arrow.bool_(),
        records.ORIGIN: text,
    }
    metadata = None if about is None else {_ABOUT: json.dumps(asdict(about))}
    return arrow.schema(list(types.items()), metadata=metadata)
