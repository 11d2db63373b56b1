"""Convert records to rows of Milvus, and rows to records and hits."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from coca.search import records
from coca.search.records import Hit, Origin, Record

HIT_COLUMNS = (
    records.ID,
    records.PATH,
    records.CAPTION,
    records.WIDTH,
    records.HEIGHT,
    records.TIME,
    records.TAGS,
    records.ALBUM,
    records.METADATA,
    records.HAS_TEXT,
    records.ORIGIN,
)
"""Columns that `to_hit` reads."""
RECORD_COLUMNS = (*HIT_COLUMNS, records.VECTOR)
"""Columns that `to_record` reads, except the caption vector, which may be in another collection."""


def row_digest(row: Mapping[str, Any]) -> bytes:
    """Compute a 16-byte digest of the columns `HIT_COLUMNS`: all fields but the vectors."""
    fields = {name: row[name] for name in HIT_COLUMNS} | {records.TAGS: list(row[records.TAGS])}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()[:16]


def to_row(record: Record) -> dict[str, Any]:
    """Convert a record to a row of Milvus, without its caption vector."""
    return {
        records.ID: record.id,
        records.VECTOR: np.asarray(record.vector, dtype=np.float32),
        records.PATH: record.path,
        records.CAPTION: record.caption,
        records.WIDTH: int(record.width),
        records.HEIGHT: int(record.height),
        records.TIME: int(record.time),
        records.TAGS: list(record.tags),
        records.ALBUM: record.album,
        records.METADATA: dict(record.metadata),
        records.HAS_TEXT: record.text_vector is not None,
        records.ORIGIN: record.origin.as_json(),
    }


def to_record(row: Mapping[str, Any], text_vector: Any = None) -> Record:
    """Convert a row of Milvus to a record."""
    return Record(
        id=row[records.ID],
        path=row[records.PATH],
        caption=row[records.CAPTION],
        width=int(row[records.WIDTH]),
        height=int(row[records.HEIGHT]),
        time=int(row[records.TIME]),
        tags=tuple(row[records.TAGS]),
        album=row[records.ALBUM],
        metadata=row[records.METADATA],
        vector=np.asarray(row[records.VECTOR], dtype=np.float32),
        text_vector=None if text_vector is None else np.asarray(text_vector, dtype=np.float32),
        origin=to_origin(row),
    )


def to_origin(row: Mapping[str, Any]) -> Origin:
    """Read the origin from a row of Milvus."""
    return Origin(**row[records.ORIGIN])


def belongs(caption: Mapping[str, Any], image_row: Mapping[str, Any] | None) -> bool:
    """Return whether a row of the caption collection matches the row of its image.

    It does not after a writer was killed between both writes, until the write is repeated.
    """
    return (
        image_row is not None
        and image_row[records.HAS_TEXT]
        and image_row[records.CAPTION] == caption[records.CAPTION]
    )


def to_hit(row: Mapping[str, Any], score: float) -> Hit:
    """Convert a row of Milvus to a hit."""
    return Hit(
        id=row[records.ID],
        score=score,
        path=row[records.PATH],
        caption=row[records.CAPTION],
        metadata=row[records.METADATA],
        width=int(row[records.WIDTH]),
        height=int(row[records.HEIGHT]),
        time=int(row[records.TIME]),
        tags=tuple(row[records.TAGS]),
        album=row[records.ALBUM],
        caption_source=to_origin(row).caption_source(row[records.CAPTION]),
    )
