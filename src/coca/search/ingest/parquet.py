"""Parquet files of embedded records, for import into a collection.

The columns are the fields of a record; metadata and origin are JSON.
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
from coca.search.records import HIT_FIELDS, Record

_ABOUT = b"coca.vectors"
_BATCH_ROWS = 1_000
_JSON = (records.METADATA, records.ORIGIN)


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
    """Number of images in the file."""
    bad: int
    """Number of rejected images."""


def write_vectors(path: str | Path, batch: Sequence[Record], about: VectorsInfo) -> None:
    """Write embedded records to a file atomically, with its description."""
    arrow = require("pyarrow", extra="data")
    parquet = require("pyarrow.parquet", extra="data")
    if batch:
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
    arrow = require("pyarrow", extra="data")
    parquet = require("pyarrow.parquet", extra="data")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    vector, text_vector = row.pop(records.VECTOR), row.pop(records.TEXT_VECTOR)
                    yield records.from_plain(
                        row | {name: json.loads(row[name]) for name in _JSON},
                        np.array(vector, np.float32),
                        None if text_vector is None else np.array(text_vector, np.float32),
                    )
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", reason="bad_table") from error


def _about(path: Path) -> VectorsInfo | None:
    arrow = require("pyarrow", extra="data")
    parquet = require("pyarrow.parquet", extra="data")
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
    plain = records.to_plain(record)
    return plain | {
        **{name: json.dumps(plain[name], ensure_ascii=False) for name in _JSON},
        records.VECTOR: record.vector,
        records.TEXT_VECTOR: record.text_vector,
    }


def _schema(arrow: Any, about: VectorsInfo) -> Any:
    vector = arrow.list_(arrow.float32())
    types = {
        **dict.fromkeys((*HIT_FIELDS, records.PERCEPTUAL_HASH), arrow.string()),
        **dict.fromkeys((records.WIDTH, records.HEIGHT, records.TIME), arrow.int64()),
        records.TAGS: arrow.list_(arrow.string()),
        records.HIDDEN: arrow.bool_(),
        records.ORIGIN: arrow.string(),
        **dict.fromkeys((records.VECTOR, records.TEXT_VECTOR), vector),
    }
    return arrow.schema(list(types.items()), metadata={_ABOUT: json.dumps(asdict(about))})
