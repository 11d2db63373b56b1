"""Parquet files of records, written atomically, independent of the Milvus version."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coca.core.errors import StorageError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic
from coca.search.records import Origin, Record

_TEXTS = ("id", "path", "caption", "album", "metadata", "origin")
_NUMBERS = ("width", "height", "time")


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write records to a Parquet file atomically.

    Raises:
        StorageError: The disk is full, or the path is not writable.
        MissingExtraError: pyarrow is not installed.
    """
    arrow = require("pyarrow", extra="search")
    vector = arrow.list_(arrow.float32())
    schema = arrow.schema(
        [(name, arrow.string()) for name in _TEXTS]
        + [(name, arrow.int64()) for name in _NUMBERS]
        + [("tags", arrow.list_(arrow.string())), ("vector", vector), ("text_vector", vector)]
    )
    table = arrow.Table.from_pylist([_to_row(record) for record in records], schema=schema)
    file = io.BytesIO()
    require("pyarrow.parquet", extra="search").write_table(table, file, compression="zstd")
    write_atomic(path, file.getvalue())


def read_records(path: str | Path) -> list[Record]:
    """Read the records of a file written by `write_records`.

    Raises:
        StorageError: It is missing or damaged.
    """
    return [_to_record(row) for row in _read(path).to_pylist()]


def _read(path: str | Path, columns: list[str] | None = None) -> Any:
    arrow, parquet = (require(name, extra="search") for name in ("pyarrow", "pyarrow.parquet"))
    try:
        return parquet.read_table(path, columns=columns)
    except (OSError, arrow.ArrowException, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise StorageError(f"{path} holds no records that can be read: {reason}") from error


def _to_row(record: Record) -> dict[str, Any]:
    text_vector = record.text_vector
    return {
        **{name: getattr(record, name) for name in ("id", "path", "caption", "album", *_NUMBERS)},
        "tags": list(record.tags),
        "metadata": json.dumps(dict(record.metadata), ensure_ascii=False),
        "origin": json.dumps(record.origin.as_json(), ensure_ascii=False),
        "vector": np.asarray(record.vector, np.float32),
        "text_vector": None if text_vector is None else np.asarray(text_vector, np.float32),
    }


def _to_record(row: dict[str, Any]) -> Record:
    text_vector = row["text_vector"]
    return Record(
        **{name: row[name] for name in ("id", "path", "caption", "album", *_NUMBERS)},
        tags=tuple(row["tags"]),
        metadata=json.loads(row["metadata"]),
        origin=Origin(**json.loads(row["origin"])),
        vector=np.asarray(row["vector"], np.float32),
        text_vector=None if text_vector is None else np.asarray(text_vector, np.float32),
    )
