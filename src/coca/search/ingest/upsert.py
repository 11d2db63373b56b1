"""Upsert planner: compare each loaded image with the collection, and write batches.

One image is one record at any number of paths: its id is the hash of its bytes. The first path is
the primary path, whose caption and metadata the record has; all paths are in `origin.files`. When
the primary file is missing or contains another image, the next path becomes primary. A record is
written before the record that it replaces is deleted. So a killed run leaves both, and the next run
deletes the old record.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.core.progress import Bar
from coca.search.ingest.ingest_report import BadLog, IngestReport
from coca.search.ingest.photo_metadata import Annotation, reads_of_files, with_place
from coca.search.ingest.prefetch import LoadedItem, embed_items
from coca.search.ingest.snapshot import CollectionSnapshot, RecordState
from coca.search.ingest.upsert_rules import CountCase, Merge, MergeCase, decide_count, decide_merge
from coca.search.predictor import Embedder
from coca.search.records import (
    MAX_BYTES,
    OCR_TEXT,
    ORIGIN,
    READ_METADATA,
    READ_TEXT,
    Origin,
    Record,
    has_priority,
    join_source_entries,
    replace_source_entry,
    series_of,
    source_of,
    split_source_entries,
    storage_error,
)

# Build records from loaded items, and merge them with stored records.


def fresh_record(item: LoadedItem, vector: Float32[np.ndarray, " E"] | None) -> Record:
    """Build a new record from a loaded item."""
    if item.given is not None:
        return item.given
    image, header = item.image, item.header
    assert image is not None
    assert vector is not None
    annotation = with_place(image.annotation.over(header.annotation))
    return Record(
        id=item.id,
        path=image.path,
        caption=annotation.caption,
        width=header.width,
        height=header.height,
        time=annotation.time or image.modified_at,
        tags=annotation.tags,
        album=annotation.album,
        metadata=annotation.metadata,
        vector=vector,
        origin=Origin(
            files={image.path: image.etag},
            label=label_of(image.annotation),
            dated="" if annotation.time or not image.modified_at else "file",
            read=reads_of_files(),
        ),
    )


def with_file_metadata(stored: Record, item: LoadedItem) -> Record:
    """Add the metadata of the file to a record that was written without them.

    What the record has, and what people changed in it, is kept.
    """
    missing = reads_of_files() & ~stored.origin.read
    if item.given is not None or not missing:
        return stored
    given = stored.caption if stored.caption_source == "given" else ""
    own = Annotation(given, stored.metadata, stored.tags)
    if missing & READ_METADATA:
        own = own.over(item.header.annotation)
    own = with_place(own)
    origin = replace(stored.origin, read=stored.origin.read | missing)
    if own.time and stored.date_source in ("file", ""):
        stored, origin = replace(stored, time=own.time), replace(origin, dated="")
    if own.caption and not given:
        origin = replace(origin, captioned=False)
        stored = replace(stored, caption=own.caption, text_vector=None)
    return replace(stored, metadata=own.metadata, tags=own.tags, origin=origin)


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
    given = fresh.origin
    origin = replace(
        stored.origin,
        label=given.label,
        captioned=given.captioned,
        dated=given.dated,
        read=stored.origin.read | given.read,
    )
    if stored.origin.captioned and not fresh.caption:
        origin = replace(origin, captioned=True)
        fresh = replace(fresh, caption=stored.caption)
    if OCR_TEXT in stored.metadata and OCR_TEXT not in fresh.metadata:
        # Of the same bytes.
        text = {OCR_TEXT: stored.metadata[OCR_TEXT]}
        fresh = replace(fresh, metadata={**fresh.metadata, **text})
    fresh = fresh.marked_as(stored)
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


Captioner: TypeAlias = Callable[[Sequence[bytes]], Sequence[str]]
"""Generates a caption for each encoded image, or reads the text inside it."""

_MAX_FILES_BYTES = MAX_BYTES[ORIGIN] // 2
"""Maximum size of the paths of one record; further copies are read again by each run."""


@runtime_checkable
class Store(Protocol):
    """Record store that is written; a `Collection` is one."""

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        ...

    def upsert(self, rows: Iterable[Record]) -> object:
        """Upsert records; existing ids are replaced."""
        ...

    def delete(self, ids: Iterable[str]) -> None:
        """Delete records; missing ids are ignored."""
        ...


class UpsertPlanner:
    """Collects images into batches, embeds new images, and upserts records.

    Attributes:
        report: Counts so far.
        fallback_paths: New primary paths of records whose metadata is still that of a missing path;
            without paths that only tables list.
    """

    def __init__(
        self,
        embedder: Embedder | None,
        store: Store,
        snapshot: CollectionSnapshot,
        *,
        captioner: Captioner | None,
        text_reader: Captioner | None,
        batch_size: int,
        bar: Bar,
        bad_log: BadLog | None,
    ) -> None:
        self.report = IngestReport()
        self.fallback_paths: list[str] = []
        self._embedder = embedder
        self._store = store
        self._snapshot = snapshot
        self._captioner = captioner
        self._text_reader = text_reader
        self._reads = reads_of_files() | (READ_TEXT if text_reader else 0)
        self._batch_size = batch_size
        self._bar = bar
        self._bad_log = bad_log
        self._logged = (0, 0)
        self._batch: list[LoadedItem] = []

    def offer(self, item: LoadedItem) -> bool:
        """Add a loaded item; it is written when its batch is full.

        Returns:
            Whether the item is complete; otherwise its entry was skipped and must be read.
        """
        image = item.image
        if image is None:
            if item.fault is not None:
                self.report.reject(item.entry.path, item.fault.reason, str(item.fault))
            elif item.series is not None:
                # Finish the work of a killed run.
                self.unlink_paths(dict.fromkeys(self._snapshot.stale_paths_of(item.series)))
                self.report.unchanged += len(self._snapshot.paths_of(item.series))
            elif not self._is_unchanged(item):
                return False
            else:
                self.report.unchanged += 1
            self._bar.advance()
            return True
        annotation = image.annotation
        if item.given is None and (
            fault := storage_error(
                image.path,
                annotation.caption,
                annotation.metadata,
                tags=annotation.tags,
                album=annotation.album,
            )
        ):
            self.report.reject(image.path, "bad_words", f"{image.path}: {fault}")
            self._bar.advance()
            return True
        self._batch.append(item)
        if len(self._batch) >= self._batch_size:
            self.write()
        return True

    def write(self) -> None:
        """Embed and write the batch."""
        batch, self._batch = self._batch, []
        copies: dict[str, list[LoadedItem]] = {}
        kept: dict[str, str | None] = {}
        for item in batch:
            copies.setdefault(item.id, []).append(item)
            kept[item.entry.path] = item.id
        stored = self._store.get([id for id in copies if self._snapshot.may_hold(id)])
        vectors, faults = self._embed({id: copies[id][0] for id in copies if id not in stored})
        records: dict[str, Record] = {}
        for id, same in copies.items():
            if fault := faults.get(id):
                for item in same:
                    self.report.reject(item.entry.path, fault.reason, str(fault))
                continue
            records[id] = self._gather(stored.get(id), vectors.get(id), same)
        self._read_texts(records, copies)
        self._write_captions(records, copies)
        self._embed_captions(records)
        changed = {
            id: record
            for id, record in records.items()
            if record != stored.get(id) or has_text_vector(record) != has_text_vector(stored[id])
        }
        self._store.upsert(changed.values())
        for record in changed.values():
            self._remember(record)
        ended = [item.series for item in batch if item.series is not None]
        stale = [path for series in ended for path in self._snapshot.stale_paths_of(series)]
        self.unlink_paths(kept | dict.fromkeys(stale))
        self._log_bad()
        alone = sum(
            series_of(item.entry.path, item.entry.etag) == item.entry.path for item in batch
        )
        self._bar.advance(alone + len(ended), added=self.report.added, bad=len(self.report.bad))

    def unlink_paths(self, kept: Mapping[str, str | None]) -> int:
        """Remove these paths from all records, except from the named record.

        A record without a remaining path is deleted.

        Returns:
            The number of deleted records.
        """
        freed: dict[str, set[str]] = {}
        for path, id in kept.items():
            for other in self._snapshot.ids_of(path):
                if other != id:
                    freed.setdefault(other, set()).add(path)
        records = self._store.get(freed)
        return self._keep_files(
            (
                record,
                {path: it for path, it in record.origin.files.items() if path not in freed[id]},
            )
            for id, record in records.items()
        )

    def forget_lost(self, paths: Iterable[str]) -> int:
        """Remove the source entries of sources that lost these paths; other sources may keep them.

        Returns:
            The number of deleted records, which had no other path.
        """
        ids = {id for path in paths for id in self._snapshot.ids_of(path)}
        records = self._store.get(ids)
        return self._keep_files(
            (record, self._current_files(record.origin)) for record in records.values()
        )

    def _keep_files(self, left: Iterable[tuple[Record, Mapping[str, str]]]) -> int:
        """Restrict records to these files; delete and count those without files."""
        removed, changed = [], []
        for record, files in left:
            if files:
                updated = self._remember(with_files(record, files))
                changed.append(updated)
                if updated.path != record.path and "" in map(
                    source_of, split_source_entries(files[updated.path])
                ):
                    self.fallback_paths.append(updated.path)
            else:
                self._snapshot.forget(record.id)
                removed.append(record.id)
        self._store.upsert(changed)
        self._store.delete(removed)
        return len(removed)

    def _is_unchanged(self, item: LoadedItem) -> bool:
        """Return whether a record is up to date with an entry whose image was not read."""
        path, etag, snapshot = item.entry.path, item.entry.etag, self._snapshot
        for id in snapshot.ids_of(path):
            known = snapshot[id]
            if etag not in split_source_entries(known.origin.files[path]):
                continue
            caption = item.annotation.caption if item.annotation is not None else ""
            merge = decide_merge(self._case(path, etag, caption, known))
            same = (merge is Merge.COPY and not self._is_remounted(item, known)) or (
                merge in (Merge.UPDATE, Merge.KEEP)
                and self._has_current_metadata(item, known, merge)
                and (known.has_caption or self._captioner is None)
                and not self._reads_of(item) & ~known.origin.read
            )
            if same:
                # Finish the work of a killed run.
                self.unlink_paths({path: id})
            return same
        return False

    def _reads_of(self, item: LoadedItem) -> int:
        """Return what an item is read again for; members of tars and rows only for their text."""
        return self._reads if item.annotation is not None else self._reads & READ_TEXT

    def _has_current_metadata(self, item: LoadedItem, known: RecordState, merge: Merge) -> bool:
        """Return whether the record of a primary path has the current metadata."""
        path, origin, annotation = item.entry.path, known.origin, item.annotation
        first, *_ = split_source_entries(origin.files[path])
        priority_etag = next(iter(self._snapshot.current_etags(path, origin.files[path])), "")
        if priority_etag != first or not origin.label:
            # The source of the record's metadata is gone.
            return False
        if annotation is None or merge is Merge.KEEP:
            return True
        return priority_etag == item.entry.etag and origin.label == label_of(annotation)

    def _case(self, path: str, etag: str, caption: str, known: RecordState) -> MergeCase:
        """Evaluate the conditions of merging an entry into a record."""
        is_primary = path == known.path
        etags = self._etags_in(known.origin, path)
        is_outranked = (
            is_primary
            and bool(etags)
            and source_of(etags[0]) != source_of(etag)
            and not has_priority(etag, caption, over=etags[0], captioned=known.has_given_caption)
        )
        return MergeCase(
            is_primary=is_primary,
            is_outranked=is_outranked,
            has_current_primary=is_primary or self._snapshot.is_current(known.path, known.origin),
            gives_caption=bool(caption),
            has_given_caption=known.has_given_caption,
        )

    def _gather(
        self,
        record: Record | None,
        vector: Float32[np.ndarray, " E"] | None,
        copies: Sequence[LoadedItem],
    ) -> Record:
        """Merge copies into a record: a new record, or an existing record that may change."""
        for item in copies:
            if record is not None:
                record = self._join(record, item)
                continue
            record = fresh_record(item, vector)
            if self._snapshot.ids_of(item.entry.path):
                self.report.updated += 1
            else:
                self.report.added += 1
        assert record is not None
        return record

    def _join(self, record: Record, item: LoadedItem) -> Record:
        """Merge another path, or newer metadata, into the record of the same bytes."""
        image = item.image
        assert image is not None
        path, etag = image.path, image.etag
        fresh = fresh_record(item, record.vector)
        before = RecordState.of(record.path, record.caption, record.origin)
        caption = fresh.caption if item.given is not None else image.annotation.caption
        merge = decide_merge(self._case(path, etag, caption, before))
        has_same_label = record.origin.label == fresh.origin.label != ""
        if merge is Merge.COPY and self._is_remounted(item, before):
            merge = Merge.TAKE_OVER
        joined = replace(record, origin=self._with_entry(record.origin, path, etag, merge))
        if merge is Merge.TAKE_OVER and has_same_metadata(item, record.path, record.origin):
            origin = replace(joined.origin, label=fresh.origin.label)
            joined = replace(moved_record(record, fresh), origin=origin)
        elif merge is Merge.TAKE_OVER and (tables := self._lasting_tables(before, fresh)):
            entry = join_source_entries([*tables, etag])
            origin = replace(joined.origin, files={**joined.origin.files, path: entry})
            joined = replace(moved_record(record, fresh), origin=origin)
        elif merge is Merge.UPDATE and item.given is None and has_same_label:
            # The metadata are as before, also if people changed the record since.
            if joined.date_source in ("file", "") and fresh.date_source == "file":
                joined = replace(joined, time=fresh.time)
        elif merge.replaces_metadata:
            if len(split_source_entries(joined.origin.files[path])) > 1 and not fresh.album:
                # A table seldom gives an album; the folder of the image is the album.
                fresh = replace(fresh, album=record.album)
            joined = with_annotation_of(fresh, joined)
        elif merge is Merge.KEEP and not joined.album:
            joined = replace(joined, album=fresh.album)
        joined = with_file_metadata(joined, item)
        same = (record.origin.label, record.caption) == (joined.origin.label, joined.caption)
        same = same and (record.metadata, record.tags) == (joined.metadata, joined.tags)
        same = same and (is_captioned(joined) or self._captioner is None)
        same = same and bool(joined.origin.read & READ_TEXT or self._text_reader is None)
        case = CountCase(merge, is_new_path=path not in record.origin.files, is_same=same)
        self.report.count(decide_count(case), path, of=record.path)
        return joined

    def _is_remounted(self, item: LoadedItem, known: RecordState) -> bool:
        """Return whether an item is a record's primary file, on a drive with another mount point.

        The primary path is missing, and the item has the same metadata.
        """
        etags = known.origin.files.get(known.path, "")
        missing = known.path != item.entry.path and self._snapshot.is_missing(known.path, etags)
        return missing and has_same_metadata(item, known.path, known.origin)

    def _lasting_tables(self, known: RecordState, fresh: Record) -> list[str]:
        """List the source entries of tables whose metadata stays with a file that moved.

        Empty if the file is not missing, or if its metadata at the new path has priority.
        """
        path, etags = known.path, known.origin.files.get(known.path, "")
        first, *_ = entries = split_source_entries(etags)
        priority = has_priority(
            fresh.origin.files[fresh.path],
            fresh.caption,
            over=first,
            captioned=known.has_given_caption,
        )
        if not source_of(first) or priority or not self._snapshot.is_missing(path, etags):
            return []
        return [entry for entry in entries if source_of(entry)]

    def _with_entry(self, origin: Origin, path: str, etag: str, merge: Merge) -> Origin:
        """Add or replace the source entry of a path, and drop entries that the sources lost."""
        if merge is Merge.COPY and path not in origin.files and _is_full(origin):
            return origin
        entry = replace_source_entry(
            self._etags_in(origin, path), etag, first=merge.replaces_metadata
        )
        return replace(origin, files=self._current_files(origin) | {path: entry})

    def _etags_in(self, origin: Origin, path: str) -> list[str]:
        """List the source entries of a path in a record that no source has lost."""
        etags = origin.files.get(path)
        return [] if etags is None else self._snapshot.current_etags(path, etags)

    def _current_files(self, origin: Origin) -> dict[str, str]:
        """List the paths of a record that the sources still have, with their source entries."""
        current = {
            path: self._snapshot.current_etags(path, etags) for path, etags in origin.files.items()
        }
        return {path: join_source_entries(etags) for path, etags in current.items() if etags}

    def _remember(self, record: Record) -> Record:
        """Add a written record to the snapshot."""
        self._snapshot.remember(
            record.id, RecordState.of(record.path, record.caption, record.origin)
        )
        return record

    def _embed(
        self, new: Mapping[str, LoadedItem]
    ) -> tuple[dict[str, Float32[np.ndarray, " E"]], dict[str, DataError]]:
        """Embed items without given vectors; return vectors and errors by id."""
        bare = {id: item for id, item in new.items() if item.given is None}
        if not bare:
            return {}, {}
        assert self._embedder is not None, "without a model, all records are given"
        return embed_items(self._embedder, bare)

    def _read_texts(
        self, records: dict[str, Record], copies: Mapping[str, Sequence[LoadedItem]]
    ) -> None:
        """Read the text inside images whose text was never read."""
        unread = {
            id: image.data
            for id, record in records.items()
            if not record.origin.read & READ_TEXT and (image := copies[id][0].image) and image.data
        }
        if self._text_reader is None or not unread:
            return
        for id, text in zip(unread, self._text_reader(list(unread.values())), strict=True):
            record = records[id]
            own = Annotation(metadata=record.metadata)
            read = own.over(Annotation(metadata={OCR_TEXT: text} if text else {}))
            origin = replace(record.origin, read=record.origin.read | READ_TEXT)
            records[id] = replace(record, metadata=read.metadata, origin=origin)

    def _write_captions(
        self, records: dict[str, Record], copies: Mapping[str, Sequence[LoadedItem]]
    ) -> None:
        uncaptioned = [id for id, record in records.items() if not is_captioned(record)]
        if self._captioner is None or not uncaptioned:
            return
        images = [copies[id][0].image for id in uncaptioned]
        captions = self._captioner([image.data for image in images if image is not None])
        for id, caption in zip(uncaptioned, captions, strict=True):
            origin = replace(records[id].origin, captioned=True)
            records[id] = replace(records[id], caption=caption, origin=origin)

    def _embed_captions(self, records: dict[str, Record]) -> None:
        """Embed captions without a vector."""
        unembedded = [
            id for id, record in records.items() if record.caption and record.text_vector is None
        ]
        if unembedded and self._embedder is not None:
            vectors = self._embedder.embed_texts([records[id].caption for id in unembedded])
            for id, vector in zip(unembedded, vectors, strict=True):
                records[id] = replace(records[id], text_vector=vector)

    def _log_bad(self) -> None:
        if self._bad_log is not None:
            good, bad = self._logged
            self._logged = self.report.good, len(self.report.bad)
            self._bad_log.add(self.report.good - good, self.report.bad[bad:])


def _is_full(origin: Origin) -> bool:
    """Return whether the record has no room for further paths."""
    return len(json.dumps(dict(origin.files))) >= _MAX_FILES_BYTES
