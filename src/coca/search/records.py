"""What a collection holds and what a search gives back, and the checks that keep both sound."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import SearchError

ID, VECTOR, PATH, CAPTION, METADATA, ORIGIN = (
    "id",
    "vector",
    "path",
    "caption",
    "metadata",
    "origin",
)
"""The columns of a collection."""

MAX_BYTES = {ID: 64, PATH: 4_096, CAPTION: 65_535, METADATA: 65_535, ORIGIN: 65_535}
"""Longest value of each column, in bytes of UTF-8: a Milvus server takes no more."""

_UNIT_TOLERANCE = 1e-3
"""How far a length may be from 1; a vector that was rounded to 16 bits stays within it."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a record came from, so that a later run sees what changed."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Path -> stamp (size and time) of every file with these bytes."""
    label: str = ""
    """Digest of the caption and metadata that were given beside the picture."""
    captioned: bool = False
    """The caption was written by a model, and not given."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One picture in a collection."""

    id: str
    """Hash of the picture's bytes: the same picture is one record wherever it lies."""
    path: str
    caption: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Anything that JSON holds; searchable as `metadata["key"]`."""
    vector: Float32[np.ndarray, " E"] = field(compare=False, repr=False)
    """The embedding, of length 1."""
    origin: Origin = field(default_factory=Origin, repr=False)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One result of a search."""

    id: str
    score: float
    """Cosine of query and picture, -1 to 1."""
    path: str
    caption: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CollectionInfo:
    """What a collection says about itself; enough to load the model that filled it."""

    uri: str
    collection: str
    count: int
    embed_dim: int
    fingerprint: str
    """Of the model that made the vectors."""
    model: str
    """Name or folder of that model, as it was given when the collection was made."""
    server_version: str


def content_id(data: bytes) -> str:
    """The id of a picture: the first 32 hex digits of the SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def check_same_model(info: CollectionInfo, *, fingerprint: str, embed_dim: int) -> None:
    """Refuse a model whose vectors cannot be compared with the collection's.

    Raises:
        SearchError: The fingerprints or the sizes differ.
    """
    if (info.fingerprint, info.embed_dim) == (fingerprint, embed_dim):
        return
    named = f" ({info.model})" if info.model else ""
    sizes = (
        f"; its vectors have {info.embed_dim} numbers, and not {embed_dim}"
        if info.embed_dim != embed_dim
        else ""
    )
    raise SearchError(
        f"collection {info.collection!r} in {info.uri} was filled by model {info.fingerprint}"
        f"{named}, and not by {fingerprint}{sizes}: load that model, or fill another collection "
        "with `coca index --collection NAME`"
    )


def unit_rows(
    vectors: Float[np.ndarray, "N E"], embed_dim: int, names: list[str]
) -> Float32[np.ndarray, "N E"]:
    """The vectors as 32-bit floats, after the checks that Milvus leaves out.

    Args:
        vectors: One a row.
        embed_dim: The size that the collection holds.
        names: What to call each row in an error.

    Raises:
        SearchError: Wrong size, NaN or infinity, or a length that is not 1.
    """
    if vectors.shape[1] != embed_dim:
        raise SearchError(
            f"the vectors have {vectors.shape[1]} numbers each; this collection holds {embed_dim}"
        )
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    # Written so that NaN, which compares as false with everything, counts as wrong.
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT_TOLERANCE))
    if wrong.size:
        row = int(wrong[0])
        found = (
            f"a vector of length {lengths[row]:.4g}"
            if np.isfinite(lengths[row])
            else "a vector with NaN or infinity"
        )
        raise SearchError(f"{names[row]} has {found}; its length must be 1")
    return vectors


def fault_of(path: str, caption: str, metadata: Mapping[str, Any]) -> str | None:
    """Why these words cannot be stored, or None if they can."""
    columns = {PATH: path, CAPTION: caption}
    try:
        columns[METADATA] = json.dumps(
            dict(metadata), allow_nan=False, ensure_ascii=False, sort_keys=True
        )
    except (TypeError, ValueError) as error:
        return f"the metadata cannot be written as JSON ({error})"
    for column, text in columns.items():
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError:
            return f"the {column} holds characters that are not valid Unicode"
        if size_bytes > MAX_BYTES[column]:
            return f"the {column} has {size_bytes:,} bytes; at most {MAX_BYTES[column]:,} fit"
    return None


def to_row(record: Record) -> dict[str, Any]:
    """The record as Milvus takes it."""
    return {
        ID: record.id,
        VECTOR: np.asarray(record.vector, dtype=np.float32),
        PATH: record.path,
        CAPTION: record.caption,
        METADATA: dict(record.metadata),
        ORIGIN: {
            "files": dict(record.origin.files),
            "label": record.origin.label,
            "captioned": record.origin.captioned,
        },
    }


def to_record(row: Mapping[str, Any]) -> Record:
    """The record that a row of Milvus holds."""
    return Record(
        id=row[ID],
        path=row[PATH],
        caption=row[CAPTION],
        metadata=row[METADATA],
        vector=np.asarray(row[VECTOR], dtype=np.float32),
        origin=to_origin(row),
    )


def to_origin(row: Mapping[str, Any]) -> Origin:
    """The origin that a row of Milvus holds."""
    return Origin(**row[ORIGIN])


def to_hit(row: Mapping[str, Any], score: float) -> Hit:
    """The hit for a row of Milvus."""
    return Hit(
        id=row[ID],
        score=score,
        path=row[PATH],
        caption=row[CAPTION],
        metadata=row[METADATA],
    )
