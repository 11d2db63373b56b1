"""Build records from loaded items, and merge them with stored records."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
from jaxtyping import Float32

from coca.search.frame_paths import series_of
from coca.search.ingest.prefetch import LoadedItem
from coca.search.ingest.sources.images import Annotation
from coca.search.records import Origin, Record
from coca.search.source_entries import split_source_entries


def fresh_record(item: LoadedItem, vector: Float32[np.ndarray, " E"] | None) -> Record:
    """Build a new record from a loaded item."""
    if item.given is not None:
        return item.given
    image, header = item.image, item.header
    assert image is not None
    assert vector is not None
    annotation = image.annotation
    return Record(
        id=item.id,
        path=image.path,
        caption=annotation.caption,
        width=header.width,
        height=header.height,
        time=annotation.time or header.time or image.modified_at,
        tags=annotation.tags,
        album=annotation.album,
        metadata=annotation.metadata,
        vector=vector,
        origin=Origin(files={image.path: image.etag}, label=label_of(annotation)),
    )


def with_files(record: Record, files: Mapping[str, str]) -> Record:
    """Replace the paths of a record; the first becomes primary if the primary path is gone."""
    lead = record.path if record.path in files else min(files)
    previous_etag = split_source_entries(record.origin.files.get(record.path, ""))[0]
    same = lead == record.path and split_source_entries(files[lead])[0] == previous_etag
    # Without a label, the next run reads the metadata of the new primary path.
    label = record.origin.label if same else ""
    return replace(record, path=lead, origin=replace(record.origin, files=files, label=label))


def has_same_metadata(item: LoadedItem, path: str, origin: Origin) -> bool:
    """Return whether an item has the metadata that a record was given at its primary path.

    The default album, which is the folder, may differ.

    Args:
        item: An item with the bytes of the record.
        path: Primary path of the record.
        origin: Origin of the record.
    """
    annotation = item.image.annotation if item.image is not None else item.annotation
    if annotation is None or not origin.label:
        return False
    if annotation.album == _default_album(item.entry.path, item.entry.etag):
        album = _default_album(path, origin.files.get(path, ""))
        annotation = replace(annotation, album=album)
    return label_of(annotation) == origin.label


def moved_record(stored: Record, fresh: Record) -> Record:
    """Move a record to the path of an item, with everything that people changed in it since."""
    etags = stored.origin.files.get(stored.path, "")
    by_default = stored.album == _default_album(stored.path, etags)
    return replace(stored, path=fresh.path, album=fresh.album if by_default else stored.album)


def _default_album(path: str, etags: str) -> str:
    """Return the album of an image without one of its own: its folder, or the file of a frame."""
    file = series_of(path, etags)
    return file if file != path else os.path.dirname(path)


def with_annotation_of(fresh: Record, stored: Record) -> Record:
    """Merge new metadata into a stored record; given captions replace generated captions."""
    origin = replace(stored.origin, label=fresh.origin.label, captioned=fresh.origin.captioned)
    if stored.origin.captioned and not fresh.caption:
        origin = replace(origin, captioned=True)
        fresh = replace(fresh, caption=stored.caption)
    kept = fresh.caption == stored.caption and has_text_vector(stored)
    return replace(
        fresh,
        vector=stored.vector,
        text_vector=stored.text_vector if kept else fresh.text_vector,
        origin=origin,
    )


def is_captioned(record: Record) -> bool:
    """Return whether the record has a caption, or a model generated an empty caption."""
    return bool(record.caption) or record.origin.captioned


def has_text_vector(record: Record) -> bool:
    """Return whether the caption has a vector."""
    return record.text_vector is not None


def label_of(annotation: Annotation) -> str:
    """Compute the digest of an image's caption and metadata."""
    values = {one.name: getattr(annotation, one.name) for one in fields(annotation)}
    try:
        text = json.dumps(values, sort_keys=True)
    except RecursionError:
        # An empty digest forces another read, which reports the error.
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
