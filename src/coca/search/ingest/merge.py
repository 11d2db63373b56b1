"""Records made of what was found, and joined with what is there already."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
from jaxtyping import Float32

from coca.search.ingest.local_files import Words
from coca.search.ingest.prefetch import LoadedItem
from coca.search.records import Origin, Record
from coca.search.source_entries import claims_in


def fresh_record(found: LoadedItem, vector: Float32[np.ndarray, " E"] | None) -> Record:
    """The record of an image as if it were the first one."""
    if found.given is not None:
        return found.given
    picture, header = found.picture, found.header
    assert picture is not None
    assert vector is not None
    words = picture.words
    return Record(
        id=found.id,
        path=picture.path,
        caption=words.caption,
        width=header.width,
        height=header.height,
        time=words.time or header.time or picture.changed,
        tags=words.tags,
        album=words.album,
        metadata=words.metadata,
        vector=vector,
        origin=Origin(files={picture.path: picture.stamp}, label=label_of(words)),
    )


def with_files(record: Record, files: Mapping[str, str]) -> Record:
    """The record with these paths; the first of them leads where the leading one is not there."""
    lead = record.path if record.path in files else min(files)
    speaker = claims_in(record.origin.files.get(record.path, ""))[0]
    same = lead == record.path and claims_in(files[lead])[0] == speaker
    # Without a label the next run looks at the words of who leads now.
    label = record.origin.label if same else ""
    return replace(record, path=lead, origin=replace(record.origin, files=files, label=label))


def with_words_of(fresh: Record, stored: Record) -> Record:
    """The stored record with what is said now; what a model wrote gives way to what is given."""
    origin = replace(stored.origin, label=fresh.origin.label, captioned=fresh.origin.captioned)
    if stored.origin.captioned and not fresh.caption:
        origin = replace(origin, captioned=True)
        fresh = replace(fresh, caption=stored.caption)
    kept = fresh.caption == stored.caption and has_spoken(stored)
    return replace(
        fresh,
        vector=stored.vector,
        text_vector=stored.text_vector if kept else fresh.text_vector,
        origin=origin,
    )


def is_answered(record: Record) -> bool:
    """Whether there is a caption, or none was found by the model that was asked."""
    return bool(record.caption) or record.origin.captioned


def has_spoken(record: Record) -> bool:
    """Whether the caption has its vector."""
    return record.text_vector is not None


def label_of(words: Words) -> str:
    """Digest of what was said beside an image."""
    said = {one.name: getattr(words, one.name) for one in fields(words)}
    try:
        text = json.dumps(said, sort_keys=True)
    except RecursionError:
        # No digest is empty: whoever reads it again tells what is wrong with it.
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
