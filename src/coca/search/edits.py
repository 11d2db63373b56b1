"""Edits of records by people: they win over generated and indexed values, and can be undone.

The origin of a record has an entry of each edited field: `caption`, `tags`, `time`, `metadata.KEY`.
It keeps the value `before` the edit; whether a model wrote it, `generated`; the time of the last
edit, `at`; and the value that the source of the image gave last, `given`, where that is another.
Only a value that people change in the source later, such as a caption in an XMP file, replaces an
edit. The tag of favourites is not part of an edit.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import time as seconds_now
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.core.errors import ArgumentError
from coca.search.records import CAPTION, FAVOURITE, METADATA, TAGS, TIME, Origin, Record
from coca.search.store import Change, Collection

EmbedTexts = Callable[[Sequence[str]], Float32[np.ndarray, "N E"]]

_METADATA = f"{METADATA}."
_TICK_S = 0.02
"""Modification times of files are up to 10 ms behind the clock."""


def edited(
    record: Record,
    *,
    caption: str | None = None,
    tags: Iterable[str] | None = None,
    time: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Record:
    """Edit a record; the vector of another caption is missing, see `update_embedded`.

    Args:
        record: The record.
        caption: Caption; that of a model, unchanged, confirms it. None: unchanged.
        tags: All tags. None: unchanged.
        time: Time of capture, in local seconds since 1970. None: unchanged.
        metadata: Values of some keys; None removes a key.
    """
    origin = record.origin
    values = {CAPTION: caption, TAGS: None if tags is None else [*dict.fromkeys(tags)], TIME: time}
    wanted: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    wanted |= {_METADATA + key: value for key, value in (metadata or {}).items()}
    edits = dict(origin.edits)
    for field, value in wanted.items():
        before = _value(record, field)
        if field == CAPTION and origin.captioned:
            edits.setdefault(field, {"before": before, "given": "", "generated": True})
        elif field == TIME:
            edits.setdefault(field, {"before": before, "dated": origin.dated})
            origin = replace(origin, dated="")
        elif before != _plain(field, value):
            edits.setdefault(field, {"before": before})
        if field == TAGS:
            record = replace(record, tags=())  # without that of favourites
        record = _with_value(record, field, value)
    at = round(seconds_now(), 3)
    edits |= {field: {**edits[field], "at": at} for field in wanted if field in edits}
    if CAPTION in wanted:
        origin = replace(origin, captioned=False)
    return replace(record, origin=replace(origin, edits=edits))


def undone(record: Record, fields: Iterable[str] = ()) -> Record:
    """Restore the values before the edits of some fields, by default of all.

    Raises:
        ArgumentError: A field cannot be edited.
    """
    edits = dict(record.origin.edits)
    for field in list(fields) or list(edits):
        if field not in (CAPTION, TAGS, TIME) and not field.startswith(_METADATA):
            raise ArgumentError(
                f"{field!r} cannot be edited: fields are caption, tags, time and metadata.KEY"
            )
        if field not in edits:
            continue
        edit, origin = edits.pop(field), record.origin
        if field == CAPTION:
            origin = replace(origin, captioned=edit.get("generated", False))
        if field == TIME:
            origin = replace(origin, dated=edit["dated"])
        record = replace(_with_value(record, field, edit["before"]), origin=origin)
    return replace(record, origin=replace(record.origin, edits=edits))


def kept(base: Record, fresh: Record, *, given_at: float = math.inf) -> Record:
    """Edit a record that is read again as its former version was edited.

    An edit ends where the source has a value, or an item of a list, that nobody knew before, and
    was changed after the edit.

    Args:
        base: The former version.
        fresh: The record as the source gives it.
        given_at: Time of the last change of the source, in seconds since 1970; infinite if unknown.
    """
    if base.origin.captioned and fresh.caption and not _is_new(fresh.caption, [base.caption]):
        # It was written to a file of its own, and is still that of a model.
        origin = replace(fresh.origin, captioned=True)
        fresh = replace(_with_vectors(fresh, base), caption=base.caption, origin=origin)
    edits = {}
    for field, edit in base.origin.edits.items():
        given, own = _value(fresh, field), _value(base, field)
        is_given = given not in (None, "", []) and field != TIME  # often that of the file
        is_later = given_at > edit.get("at", -math.inf) - _TICK_S
        if is_given and is_later and _is_new(given, [edit["before"], edit.get("given"), own]):
            continue
        edits[field] = {**edit, "given": given} if is_given else edit
        fresh = _with_value(fresh, field, own)
        if field == CAPTION:
            fresh = _with_vectors(fresh, base)
        if field == TIME:
            fresh = replace(fresh, origin=replace(fresh.origin, dated=""))
    return replace(fresh, origin=replace(fresh.origin, edits=edits))


def generated_caption(record: Record) -> str | None:
    """Return the caption that a model generated, also if it was edited; None without."""
    edit = record.origin.edits.get(CAPTION, {})
    if edit.get("generated"):
        return str(edit["before"])
    return record.caption if record.origin.captioned else None


def without_generated(origin: Origin) -> Origin:
    """Forget the caption that a model generated for other bytes of the file."""
    edits = {
        field: {**edit, "before": "", "generated": False} if edit.get("generated") else edit
        for field, edit in origin.edits.items()
    }
    return replace(origin, captioned=False, edits=edits)


class _UnknownVectorsError(Exception):
    """Captions whose vectors must be computed before a write."""

    def __init__(self, captions: Iterable[str]) -> None:
        self.captions = sorted(captions)


def update_embedded(
    collection: Collection, ids: Iterable[str], change: Change, embed_texts: EmbedTexts
) -> dict[str, Record]:
    """Update records like `Collection.update`, and embed captions that changed.

    The model runs while others may write. Afterwards `change` is applied to the records as they are
    then; if it leads to another caption, that is embedded, too.

    Args:
        collection: Collection of the records.
        ids: Ids of the records to read; missing ids are skipped.
        change: See `Collection.update`. A record with another caption has no caption vector.
        embed_texts: The model of the collection.
    """
    wanted, vectors = list(ids), dict[str, Float32[np.ndarray, " E"]]()

    def embedded(stored: Mapping[str, Record]) -> Mapping[str, Record | None]:
        results = dict(change(stored))
        unknown = set[str]()
        for id, record in results.items():
            if record is None or record.text_vector is not None or not record.caption.strip():
                continue
            vector = vectors.get(record.caption)
            if id in stored and stored[id].caption == record.caption:
                vector = stored[id].text_vector
            elif vector is None:
                unknown.add(record.caption)
            results[id] = replace(record, text_vector=vector)
        if unknown:
            raise _UnknownVectorsError(unknown)
        return results

    while True:
        try:
            return collection.update(wanted, embedded)
        except _UnknownVectorsError as missing:
            vectors |= zip(missing.captions, embed_texts(missing.captions), strict=True)


def _value(record: Record, field: str) -> Any:
    """Return a field in the form of JSON; None for a missing key of the metadata."""
    if field.startswith(_METADATA):
        return record.metadata.get(field.removeprefix(_METADATA))
    return _plain(field, getattr(record, field))


def _plain(field: str, value: Any) -> Any:
    return [tag for tag in value if tag != FAVOURITE] if field == TAGS else value


def _with_value(record: Record, field: str, value: Any) -> Record:
    if field == CAPTION:
        vector = record.text_vector if value == record.caption else None
        return replace(record, caption=value, text_vector=vector)
    if field == TAGS:
        favourite = [FAVOURITE] if FAVOURITE in record.tags else []
        return replace(record, tags=tuple(dict.fromkeys([*value, *favourite])))
    if field == TIME:
        return replace(record, time=value)
    key = field.removeprefix(_METADATA)
    rest = {name: one for name, one in record.metadata.items() if name != key}
    return replace(record, metadata=rest if value is None else {**record.metadata, key: value})


def _with_vectors(record: Record, base: Record) -> Record:
    """Take both vectors of a record; that of the image is replaced where it is encoded again."""
    return replace(record, vector=base.vector, text_vector=base.text_vector)


def _is_new(value: Any, known: Sequence[Any]) -> bool:
    """Return whether a value, or an item of a list, is none of the known ones.

    White space is ignored, as files do not keep all of it.
    """
    if isinstance(value, list):
        known = [item for one in known if isinstance(one, list) for item in one]
        return any(_is_new(item, known) for item in value)
    return _letters(value) not in map(_letters, known)


def _letters(value: Any) -> str:
    return "".join(sign for sign in str(value) if sign.isprintable() and not sign.isspace())
