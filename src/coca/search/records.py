"""What a collection holds and what a search gives back, and the checks that keep both sound."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import SearchError

ID, PATH, CAPTION, ALBUM, TAGS = "id", "path", "caption", "album", "tags"
WIDTH, HEIGHT, TIME = "width", "height", "time"
METADATA, ORIGIN = "metadata", "origin"
CAPTION_SOURCE = "caption_source"
"""Derived from the origin, so that collections of every version answer it; filters may name it."""
VECTOR, TEXT_VECTOR, HAS_TEXT = "vector", "text_vector", "has_text"
"""The columns of a collection."""

CaptionSource: TypeAlias = Literal["given", "model", ""]
"""Where a caption comes from: given with the image, written by a model, or nowhere."""

MAX_BYTES = {ID: 64, PATH: 4_096, CAPTION: 65_535, METADATA: 65_535, ORIGIN: 65_535, ALBUM: 4_096}
"""Longest value of each column, in bytes of UTF-8: a Milvus server takes no more."""
MAX_TAGS, MAX_TAG_BYTES = 256, 512
MAX_LEVELS = 100
"""How deep metadata may be nested; the packages on the way to Milvus give up at several hundred."""

_NOT_IN_ID = re.compile(r'["\\\x00-\x1f]')
"""A server's records are read through by ids that its client does not quote."""

_LARGEST = 2**63 - 1
_LEAST_IN_JSON, _LARGEST_IN_JSON = -(2**63), 2**64 - 1
_UNIT_TOLERANCE = 1e-3
"""How far a length may be from 1; a vector that was rounded to 16 bits stays within it."""


GroupBy: TypeAlias = Literal["album"]
"""Field by which hits are grouped: only the best hit of each group is returned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a record came from, so that a later run sees what changed."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Path -> stamp (size and time) of every file with these bytes; several stamps, see
    `coca.search.source_entries`, where several sources hold the path."""
    label: str = ""
    """Digest of the caption and metadata that were given beside the image; empty if they must be
    looked at again."""
    captioned: bool = False
    """The caption was written by a model, and not given; an empty one if it had nothing to say."""

    def caption_source(self, caption: str) -> CaptionSource:
        """Name the source of the record's caption."""
        if not caption:
            return ""
        return "model" if self.captioned else "given"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image in a collection."""

    id: str
    """Hash of the image's bytes: the same image is one record wherever it lies."""
    path: str
    """Where it lies: a file, an address, or a member of a shard."""
    caption: str = ""
    width: int = 0
    """In pixels; 0 if it is not known."""
    height: int = 0
    """In pixels; 0 if it is not known."""
    time: int = 0
    """When it was taken, in seconds since 1970; 0 if it is not known."""
    tags: tuple[str, ...] = ()
    """Words to filter by: `array_contains(tags, "cat")`."""
    album: str = ""
    """The video or album that it is one image of; a search can give one result for each."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Anything that JSON holds; searchable as `metadata["key"]`."""
    vector: Float32[np.ndarray, " E"] = field(compare=False, repr=False)
    """The embedding of the image, of length 1."""
    text_vector: Float32[np.ndarray, " E"] | None = field(default=None, compare=False, repr=False)
    """The embedding of the caption, of length 1; None for a record that no text search may find."""
    origin: Origin = field(default_factory=Origin, repr=False)

    @property
    def caption_source(self) -> CaptionSource:
        """Whether the caption was given or written by a model; empty without a caption."""
        return self.origin.caption_source(self.caption)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One result of a search."""

    id: str
    score: float
    """Cosine of query and image, or of query and caption, -1 to 1; of a hybrid search, what its
    rankings were joined by."""
    path: str
    caption: str
    metadata: Mapping[str, Any]
    width: int = 0
    height: int = 0
    time: int = 0
    tags: tuple[str, ...] = ()
    album: str = ""
    caption_source: CaptionSource = ""
    """`given` with the image, written by the `model`, or empty without a caption."""
    log_likelihood: float | None = None
    """How likely the model is to say the query of the image, in nats; only where asked for."""
    rank_score: float | None = None
    """What results are sorted by where that is not `score`: of re-ranking the logit scale times the
    cosine plus `log_likelihood`, of diverse recommendations the marginal relevance."""


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
    """The id of an image: the first 32 hex digits of the SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def same_model(one: str, other: str) -> bool:
    """Whether two fingerprints name one model.

    Fingerprints had 16 digits before they covered the configuration, which 8 digits more do now. A
    collection with such a fingerprint still opens, by whichever configuration.
    """
    short, long = sorted((one, other), key=len)
    before = re.fullmatch(r"[0-9a-f]{16}", short) and re.fullmatch(r"[0-9a-f]{24}", long)
    return one == other or bool(before and long.startswith(short))


def check_same_model(
    info: CollectionInfo, *, fingerprint: str, embed_dim: int, maker: str = "coca index"
) -> None:
    """Refuse a model whose vectors cannot be compared with the collection's.

    Args:
        info: The collection's.
        fingerprint: Of the model.
        embed_dim: Of its vectors.
        maker: The command that fills such a collection, for the error.

    Raises:
        SearchError: The fingerprints or the sizes differ.
    """
    if same_model(info.fingerprint, fingerprint) and info.embed_dim == embed_dim:
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
        f"with `{maker} --collection NAME`"
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
        SearchError: Not one a row, wrong size, NaN or infinity, or a length that is not 1.
    """
    try:
        vectors = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise SearchError(
            f"the vectors are no array of numbers; this collection takes rows of {embed_dim}"
        ) from None
    if vectors.ndim != 2:
        raise SearchError(
            f"the vectors have the shape {vectors.shape}; this collection takes rows of "
            f"{embed_dim} numbers"
        )
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


def fault_of(
    path: str,
    caption: str,
    metadata: Mapping[str, Any],
    *,
    tags: Sequence[str] = (),
    album: str = "",
) -> str | None:
    """Why these words cannot be stored, or None if they can."""
    columns = {PATH: path, CAPTION: caption, ALBUM: album}
    if fault := _fault_of_values(metadata):
        return fault
    try:
        columns[METADATA] = json.dumps(
            dict(metadata), allow_nan=False, ensure_ascii=False, sort_keys=True
        )
    except (TypeError, ValueError) as error:
        return f"the metadata cannot be written as JSON ({error})"
    for column, text in columns.items():
        if fault := _fault_of_text(f"the {column}", text, MAX_BYTES[column]):
            return fault
    if len(tags) > MAX_TAGS:
        return f"there are {len(tags):,} tags; at most {MAX_TAGS:,} fit"
    faults = (_fault_of_text(f"tag {tag[:40]!r}", tag, MAX_TAG_BYTES) for tag in tags)
    return next(filter(None, faults), None)


def check_records(batch: Sequence[Record], embed_dim: int) -> None:
    """Refuse what cannot be stored, before any of it is written.

    Raises:
        SearchError: A record cannot be stored; the message names it and tells why.
    """
    names = [f"record {record.id} ({record.path})" for record in batch]
    for name, record in zip(names, batch, strict=True):
        fault = _fault_of_id(record.id) or fault_of(
            record.path, record.caption, record.metadata, tags=record.tags, album=record.album
        )
        if fault := fault or _fault_of_numbers(record):
            raise SearchError(f"{name} cannot be stored: {fault}")
        for vector in (record.vector, record.text_vector):
            if vector is not None and vector.shape != (embed_dim,):
                raise SearchError(
                    f"{name} has {vector.size} numbers; this collection holds {embed_dim}"
                )
    unit_rows(np.stack([record.vector for record in batch]), embed_dim, names)
    spoken = {
        f"the caption of {name}": record.text_vector
        for name, record in zip(names, batch, strict=True)
        if record.text_vector is not None
    }
    if spoken:
        unit_rows(np.stack(list(spoken.values())), embed_dim, list(spoken))


def _fault_of_id(id: str) -> str | None:
    if not id:
        return "the id is empty"
    if wrong := _NOT_IN_ID.search(id):
        return (
            f"the id holds {wrong.group()!r}; right is text without quotes, backslashes and breaks"
        )
    return _fault_of_text("the id", id, MAX_BYTES[ID])


def _fault_of_numbers(record: Record) -> str | None:
    for name, number in ((WIDTH, record.width), (HEIGHT, record.height), (TIME, record.time)):
        least = -_LARGEST if name == TIME else 0
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            return f"the {name} is {number!r}, and not a whole number"
        if not least <= number <= _LARGEST:
            return f"the {name} is {number:,}; it may be {least:,} to {_LARGEST:,}"
    return None


def _fault_of_values(metadata: Mapping[str, Any]) -> str | None:
    """What JSON can hold and Milvus cannot, looked for without recursion."""
    level: list[tuple[str, Any]] = list(metadata.items())
    for _ in range(MAX_LEVELS):
        below: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, Mapping):
                below += [(name, one) for one in value.values()]
            elif isinstance(value, list | tuple):
                below += [(name, one) for one in value]
            elif isinstance(value, int) and not _LEAST_IN_JSON <= value <= _LARGEST_IN_JSON:
                return (
                    f"the metadata {name!r} holds a whole number that does not fit into 64 bits: "
                    f"it may be {_LEAST_IN_JSON:,} to {_LARGEST_IN_JSON:,}"
                )
        if not below:
            return None
        level = below
    return f"the metadata {level[0][0]!r} is nested more than {MAX_LEVELS} levels deep"


def _fault_of_text(what: str, text: str, most_bytes: int) -> str | None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        return f"{what} holds characters that are not valid Unicode"
    if size_bytes > most_bytes:
        return f"{what} has {size_bytes:,} bytes; at most {most_bytes:,} fit"
    return None
