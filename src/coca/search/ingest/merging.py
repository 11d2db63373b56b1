"""Build the record of a loaded image, and keep what people changed in it.

People change records, and not the files. What a source gives has a digest, the label. As long as
that is the same, the caption, the metadata, the tags and the album of a record stay. If it changed,
those of the source replace them, but edited values; see `coca.search.edits`. Hidden records and
favourites stay so.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from jaxtyping import Float32

from coca.search.edits import generated_caption, kept, without_generated
from coca.search.ingest.photo_metadata import Annotation, Header, reads_of_files, with_place
from coca.search.ingest.sources import Entry, SourceImage
from coca.search.records import (
    CAPTION,
    FAVOURITE,
    LOOKS_LIKE,
    OCR_TEXT,
    READ_METADATA,
    READ_TEXT,
    TAGS,
    Origin,
    Record,
    nouns_of,
    series_of,
)

_LABEL_DIGITS, _HEADER_DIGITS = 16, 8
NO_VECTOR = np.zeros(0, np.float32)
"""Vector of a record that is not complete yet."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What models made of the bytes of an image, which all its records share."""

    vector: Float32[np.ndarray, " E"]
    perceptual_hash: bytes = b""
    caption: str | None = None
    """Generated caption; None if none was generated."""
    text: str | None = None
    """Text inside the image; None if it was not read."""
    nouns: Mapping[str, int] = field(default_factory=dict)
    """What a classifier sees, with percentages; see `LOOKS_LIKE`."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Encoded":
        """Collect what records of the same bytes have."""
        captions = (text for one in records if (text := generated_caption(one)) is not None)
        texts = (
            str(record.metadata.get(OCR_TEXT, ""))
            for record in records
            if record.origin.read & READ_TEXT
        )
        return cls(
            vector=records[0].vector,
            perceptual_hash=records[0].perceptual_hash,
            caption=next(captions, None),
            text=next(texts, None),
            nouns=next(filter(None, map(nouns_of, (one.metadata for one in records))), {}),
        )


# Labels: digests of what a source gives.


def label_of(annotation: Annotation, entry: Entry) -> str:
    """Compute the label of an image's metadata, without its default album, which is its place."""
    if annotation.album == _default_album(entry.path, entry.etag):
        annotation = replace(annotation, album="")
    return _digest(annotation, _LABEL_DIGITS)


def is_same_label(label: str, other: str) -> bool:
    """Return whether two labels are those of the same metadata, apart from those of the files."""
    return label[:_LABEL_DIGITS] == other[:_LABEL_DIGITS] != ""


def _digest(annotation: Annotation, digits: int) -> str:
    values = {one.name: getattr(annotation, one.name) for one in fields(annotation)}
    try:
        text = json.dumps(values, sort_keys=True)
    except RecursionError:
        # An empty digest forces another read, which reports the error.
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _default_album(path: str, etag: str) -> str:
    """Return the album of an image without one of its own: its folder, or the file of a frame."""
    file = series_of(path, etag)
    return file if file != path else os.path.dirname(path)


# Records.


def new_record(entry: Entry, image: SourceImage, header: Header, content: str) -> Record:
    """Build a record from what a source and the image itself say, without a vector."""
    annotation = with_place(image.annotation.over(header.annotation))
    label = label_of(image.annotation, entry)
    return Record(
        id=entry.id,
        path=entry.path,
        content=content,
        caption=annotation.caption,
        width=header.width,
        height=header.height,
        time=annotation.time or image.modified_at,
        tags=annotation.tags,
        album=annotation.album,
        metadata=annotation.metadata,
        vector=NO_VECTOR,
        origin=Origin(
            etag=entry.etag,
            label=label and label + _digest(header.annotation, _HEADER_DIGITS),
            dated="" if annotation.time or not image.modified_at else "file",
            read=reads_of_files(),
        ),
    )


def merged(
    base: Record, fresh: Record, carried: Annotation, *, given_at: float = math.inf
) -> Record:
    """Build the record of an image from what its source says now and from an older record.

    Args:
        base: The record of the path before; or of another path, from which the file was moved.
        fresh: The record that the source would have without it.
        carried: Metadata that the image itself carries.
        given_at: Time of the last change of the source, see `SourceImage.changed_at`.
    """
    is_same_image = base.content == fresh.content
    if is_same_image:
        is_kept = is_same_label(base.origin.label, fresh.origin.label)
    else:
        is_kept = base.origin.label == fresh.origin.label != ""
    if not is_kept:
        if not is_same_image:
            base = replace(base, origin=without_generated(base.origin))
        fresh = kept(base, fresh, given_at=given_at)
        return marked(fresh, hidden=base.hidden, favourite=FAVOURITE in base.tags)
    by_default = base.album == _default_album(base.path, base.origin.etag)
    record = replace(
        base,
        id=fresh.id,
        path=fresh.path,
        content=fresh.content,
        width=fresh.width,
        height=fresh.height,
        album=fresh.album if by_default else base.album,
        origin=replace(base.origin, etag=fresh.origin.etag, label=fresh.origin.label),
    )
    if record.date_source == "file":
        dated = replace(record.origin, dated=fresh.origin.dated)
        record = replace(record, time=fresh.time, origin=dated)
    return _with_carried(record, carried) if is_same_image else _of_other_bytes(record, fresh)


def _of_other_bytes(record: Record, fresh: Record) -> Record:
    """Remove what a model made of the bytes that a file had before."""
    made = (OCR_TEXT, LOOKS_LIKE)
    metadata = {key: value for key, value in record.metadata.items() if key not in made}
    if record.origin.captioned:
        record = replace(record, caption="", text_vector=None)
    origin = replace(without_generated(record.origin), read=fresh.origin.read)
    return replace(record, metadata=metadata, origin=origin)


def _with_carried(record: Record, carried: Annotation) -> Record:
    """Add what the file itself carries to a record that was written without it."""
    missing = reads_of_files() & ~record.origin.read
    if not missing:
        return record
    given = record.caption if record.caption_source == "given" else ""
    own = Annotation(given, record.metadata, record.tags)
    if missing & READ_METADATA:
        own = own.over(carried)
    own = with_place(own)
    origin = replace(record.origin, read=record.origin.read | missing)
    if own.time and record.date_source in ("file", ""):
        record, origin = replace(record, time=own.time), replace(origin, dated="")
    edits = record.origin.edits
    if own.caption and not given and CAPTION not in edits:
        origin = replace(origin, captioned=False)
        record = replace(record, caption=own.caption, text_vector=None)
    tags = record.tags if TAGS in edits else own.tags
    return replace(record, metadata=own.metadata, tags=tags, origin=origin)


def marked(record: Record, *, hidden: bool, favourite: bool) -> Record:
    """Hide a record, and make it a favourite, if that is stated."""
    tags = dict.fromkeys((*record.tags, FAVOURITE)) if favourite else record.tags
    return replace(record, hidden=record.hidden or hidden, tags=tuple(tags))


def completed(record: Record, encoded: Encoded) -> Record:
    """Add what models made of the image; a given caption stays."""
    record = replace(record, vector=encoded.vector, perceptual_hash=encoded.perceptual_hash)
    if encoded.caption is not None and not is_captioned(record):
        origin = replace(record.origin, captioned=True)
        record = replace(record, caption=encoded.caption, text_vector=None, origin=origin)
    if encoded.text is not None and not record.origin.read & READ_TEXT:
        read = Annotation(metadata={OCR_TEXT: encoded.text} if encoded.text else {})
        metadata = Annotation(metadata=record.metadata).over(read).metadata
        origin = replace(record.origin, read=record.origin.read | READ_TEXT)
        record = replace(record, metadata=metadata, origin=origin)
    if encoded.nouns and LOOKS_LIKE not in record.metadata:
        own = Annotation(metadata=record.metadata)
        seen = Annotation(metadata={LOOKS_LIKE: dict(encoded.nouns)})
        record = replace(record, metadata=own.over(seen).metadata)
    return record


def is_captioned(record: Record) -> bool:
    """Return whether the record has a caption, or a model or a person decided on none."""
    return bool(record.caption) or record.origin.captioned or CAPTION in record.origin.edits


def is_same_to_people(record: Record, other: Record) -> bool:
    """Return whether two records of a path differ in bookkeeping or dates of files only."""
    dated = replace(other.origin, dated=record.origin.dated, read=record.origin.read)
    about = {name: getattr(record.origin, name) for name in ("etag", "label", "edits")}
    dated = replace(dated, **about)
    texts = record.origin.read & READ_TEXT == other.origin.read & READ_TEXT
    return texts and record == replace(other, time=record.time, origin=dated)


def is_stored(record: Record, stored: Record | None) -> bool:
    """Return whether a collection has a record as it is now."""
    return record == stored and (record.text_vector is None) == (stored.text_vector is None)
