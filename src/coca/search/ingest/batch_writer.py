"""Write loaded images in batches: find known bytes, encode new ones, merge, and upsert."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from coca.core.errors import DataError
from coca.core.files.local_files import doubt, nearest
from coca.core.progress import Bar
from coca.search.edits import update_embedded
from coca.search.filters import where
from coca.search.ingest.encoding import Captioner, Encoder
from coca.search.ingest.ingest_report import BadLog, Copy, IngestReport
from coca.search.ingest.known_records import KnownRecords
from coca.search.ingest.loading import LoadedItem
from coca.search.ingest.merging import (
    Encoded,
    completed,
    is_captioned,
    is_same_to_people,
    is_stored,
    marked,
    merged,
    new_record,
)
from coca.search.records import CONTENT, FAVOURITE, READ_TEXT, Record, series_of, source_of
from coca.search.store import Collection

_SHARED_PARTS = 2
"""Number of leading parts of a path, such as `/home`, that machines may have in common."""
_MOST_DISPLACED = 10_000


@dataclass(eq=False)
class _Draft:
    """An image on its way to its record."""

    item: LoadedItem
    before: Record | None
    """Record of the path before."""
    twins: list[Record] = field(default_factory=list)
    """Records of the same bytes, if they can help."""
    base: Record | None = None
    """Record that this one goes on from: of the path before, or of another from which it moved."""
    record: Record = field(init=False)

    @property
    def is_same_image(self) -> bool:
        """Whether the path had these bytes before."""
        return self.before is not None and self.before.content == self.item.content


class BatchWriter:
    """Collects loaded images into batches, encodes new images, and upserts records.

    Attributes:
        report: Counts so far.
        missing: Ids and paths of records whose files were missing when they were read.
    """

    def __init__(
        self,
        encoder: Encoder,
        collection: Collection,
        known: KnownRecords,
        *,
        bar: Bar,
        batch_size: int,
        text_reader: Captioner | None = None,
        bad_log: BadLog | None = None,
    ) -> None:
        """Create a writer; `known` is updated with each write."""
        self.report = IngestReport()
        self.missing: dict[str, str] = {}
        self._encoder, self._collection, self._known = encoder, collection, known
        self._text_reader, self._batch_size = text_reader, batch_size
        self._bar, self._bad_log, self._logged = bar, bad_log, (0, 0)
        self._batch: list[LoadedItem] = []
        # Content -> former record of a path that has other bytes now: files were renamed in turn.
        self._displaced: dict[str, Record] = {}
        self._taken: set[str] = set()

    def offer(self, item: LoadedItem) -> None:
        """Add a loaded item; it is written when its batch is full."""
        self.report.unchanged += item.unchanged
        if item.image is not None:
            self._batch.append(item)
            if len(self._batch) >= self._batch_size:
                self.write()
            return
        if item.fault is not None:
            self._reject(item, item.fault)
        self._bar.advance()

    def write(self) -> None:
        """Encode and write the batch, and log bad images."""
        if self._batch:
            self._write_batch()
        good, bad = self._logged
        if self._bad_log is not None and self.report.bad[bad:]:
            self._logged = self.report.good, len(self.report.bad)
            self._bad_log(self.report.good - good, self.report.bad[bad:])

    def _write_batch(self) -> None:
        batch, self._batch = self._batch, []
        # Of two images with one path, the last one counts.
        items = {item.entry.id: item for item in batch}
        stored = self._collection.get(items)
        drafts = [_Draft(item, stored.get(id)) for id, item in items.items()]
        self._find_twins(drafts)
        for draft in drafts:
            draft.base = draft.before
            if not draft.is_same_image and (moved := self._moved_from(draft)):
                draft.base = moved
            draft.record = _started(draft)
        encoded, faults = self._encode(drafts)
        bad = [draft for draft in drafts if draft.item.content in faults]
        good = [draft for draft in drafts if draft.item.content not in faults]
        for draft in bad:
            self._reject(draft.item, faults[draft.item.content])
        for draft in good:
            draft.record = completed(draft.record, encoded[draft.item.content])
        self._embed_captions(good)
        self._write(good, bad, encoded)
        ended = sum(item.series is not None for item in batch)
        alone = sum(
            item.entry.path == series_of(item.entry.path, item.entry.etag) for item in batch
        )
        self._bar.advance(alone + ended, added=self.report.added, bad=len(self.report.bad))

    def _reject(self, item: LoadedItem, fault: DataError) -> None:
        self.report.reject(item.entry.path, fault.reason, str(fault))
        if fault.reason == "missing":
            self.missing[item.entry.id] = item.entry.path

    def _find_twins(self, drafts: Sequence[_Draft]) -> None:
        """Find the records of the bytes of each image that is new, or lacks what a model makes."""
        known = self._known
        wanted: dict[str, list[Record]] = {
            draft.item.content: []
            for draft in drafts
            if not known.complete or draft.item.content in known.contents
            if not draft.is_same_image
            or (self._encoder.captions and draft.before and not is_captioned(draft.before))
            or (self._text_reader and draft.before and not draft.before.origin.read & READ_TEXT)
        }
        if wanted:
            for page in self._collection.pages(where(CONTENT, "in", list(wanted))):
                for record in page:
                    wanted[record.content].append(record)
        for content in wanted.keys() & self._displaced.keys():
            wanted[content].append(self._displaced[content])
        for draft in drafts:
            draft.twins = wanted.get(draft.item.content, [])

    def _moved_from(self, draft: _Draft) -> Record | None:
        """Return the record of a file that was moved to the path of an image; each only once."""
        source, name = source_of(draft.item.entry.etag), os.path.basename(draft.item.entry.path)

        def distance(twin: Record) -> tuple[bool, bool]:
            other = source_of(twin.origin.etag)
            return other != source, os.path.basename(twin.path) != name

        left = [
            twin
            for twin in draft.twins
            if twin.id not in self._taken
            and (twin is self._displaced.get(twin.content) or self._known.has_left(twin))
        ]
        moved = min(left, key=distance, default=None)
        if moved is not None:
            self._taken.add(moved.id)
        return moved

    def _encode(self, drafts: Sequence[_Draft]) -> tuple[dict[str, Encoded], dict[str, DataError]]:
        """Encode what is unknown of the images, each once; return results and errors by content."""
        encoded: dict[str, Encoded] = {}
        faults: dict[str, DataError] = {}
        for draft in drafts:
            same = [*([draft.before] if draft.before and draft.is_same_image else ()), *draft.twins]
            if same:
                encoded[draft.item.content] = Encoded.of(same)
            elif draft.item.fault is not None:
                faults[draft.item.content] = draft.item.fault
        left = [draft for draft in drafts if draft.item.content not in faults]
        embedded = {draft.item.content for draft in left} - encoded.keys()
        captioned = {
            draft.item.content
            for draft in left
            if not is_captioned(draft.record)
            and (draft.item.content in embedded or encoded[draft.item.content].caption is None)
        }
        if captioned and not self._encoder.writes_captions():
            captioned = set()
        images = {
            draft.item.content: (draft.item.data, draft.item.prepared)
            # The item that was preprocessed comes last, and counts.
            for draft in sorted(left, key=lambda draft: draft.item.prepared is not None)
            if draft.item.content in embedded | captioned
        }
        if images:
            vectors, nouns, captions, refused = self._encoder.encode(
                images, captioned=captioned, embedded=embedded
            )
            faults |= refused
            hashes = {
                draft.item.content: draft.item.perceptual_hash
                for draft in left
                if draft.item.perceptual_hash
            }
            encoded |= {
                key: Encoded(vector=vectors[key], perceptual_hash=hashes.get(key, b""))
                for key in embedded & vectors.keys()
            }
            for key, caption in captions.items():
                encoded[key] = replace(encoded[key], caption=caption)
            for key, seen in nouns.items():
                encoded[key] = replace(encoded[key], nouns=seen)
        if self._text_reader is not None:
            unread = {
                draft.item.content: draft.item.data
                for draft in left
                if draft.item.content not in faults
                and encoded[draft.item.content].text is None
                and not draft.record.origin.read & READ_TEXT
            }
            texts = self._text_reader(list(unread.values())) if unread else ()
            for key, text in zip(unread, texts, strict=True):
                encoded[key] = replace(encoded[key], text=text)
        return encoded, faults

    def _embed_captions(self, drafts: Sequence[_Draft]) -> None:
        """Give each record the vector of its caption, which a copy may have."""
        vectors = {
            record.caption: record.text_vector
            for draft in drafts
            for record in (*draft.twins, draft.base)
            if record is not None and record.text_vector is not None
        }
        bare = [draft for draft in drafts if draft.record.caption]
        bare = [draft for draft in bare if draft.record.text_vector is None]
        unknown = dict.fromkeys(draft.record.caption for draft in bare)
        vectors |= self._encoder.embed_texts([text for text in unknown if text not in vectors])
        for draft in bare:
            draft.record = replace(draft.record, text_vector=vectors[draft.record.caption])

    def _count(self, drafts: Sequence[_Draft]) -> None:
        """Count each record as added, updated, unchanged or a copy."""
        first: dict[str, str] = {}
        for draft in drafts:
            content, report = draft.item.content, self.report
            if draft.before is not None:
                is_same = is_same_to_people(draft.record, draft.before)
                report.unchanged += is_same
                report.updated += not is_same
            elif draft.base is not None:
                report.updated += 1
            elif draft.twins or content in first:
                report.duplicates += 1
                of = draft.twins[0].path if draft.twins else first[content]
                report.copies.append(Copy(draft.item.entry.path, of))
            else:
                report.added += 1
            first.setdefault(content, draft.item.entry.path)

    def _write(
        self, good: Sequence[_Draft], bad: Sequence[_Draft], encoded: Mapping[str, Encoded]
    ) -> None:
        """Write what changed, and delete the records that are replaced by it.

        The models take seconds, in which people may have changed a record, and other runs added it:
        each is merged with what is stored when it is written.
        """
        replaced = {draft.item.entry.id for draft in bad if draft.before}
        replaced -= {draft.item.entry.id for draft in bad if draft.is_same_image}
        for draft in good:
            if draft.item.series is not None:
                replaced |= self._known.stale(draft.item.series)
        bases = {draft.base.id for draft in good if draft.base is not None}
        gone = set[str]()

        def change(stored: Mapping[str, Record]) -> dict[str, Record | None]:
            for draft in good:
                if _is_rebased(draft, stored):
                    draft.record = completed(_started(draft), encoded[draft.item.content])
            # Former records of files that were moved, and of files that are no image any more.
            moved = {
                draft.base.id
                for draft in good
                if draft.base is not None and not self._known.is_listed(draft.base.id)
                if self._known.has_left(draft.base) and _is_certain(draft.base)
            }
            gone.clear()
            gone.update(replaced | moved)
            records = {draft.item.entry.id: draft.record for draft in good}
            return dict.fromkeys(gone) | records

        update_embedded(
            self._collection,
            [*(draft.item.entry.id for draft in good), *bases, *replaced],
            change,
            lambda texts: self._encoder.embedder.embed_texts(texts),
        )
        self._count(good)
        for draft in good:
            if not is_stored(draft.record, draft.before):
                self._known.remember(draft.record)
            if draft.before is not None and not draft.is_same_image:
                self._displaced[draft.before.content] = draft.before
        while len(self._displaced) > _MOST_DISPLACED:
            del self._displaced[next(iter(self._displaced))]
        self._known.forget(gone)


def _is_rebased(draft: _Draft, stored: Mapping[str, Record]) -> bool:
    """Let a draft go on from the records as they are stored now; return whether they changed."""
    before, base = draft.before, draft.base
    current = stored.get(draft.item.entry.id)
    if current is not None:
        draft.before = current
        if base is before or current.content == draft.item.content:
            draft.base = current
    if draft.base is base is not None and base is not before:
        moved = stored.get(base.id)
        # Another image may be at the former path.
        if moved is not None and (moved.content, moved.origin.etag) == (
            base.content,
            base.origin.etag,
        ):
            draft.base = moved
    if draft.base is None or draft.base is base:
        return False
    return base is None or not is_stored(draft.base, base)


def _started(draft: _Draft) -> Record:
    """Build the record of an image, without what models make of its bytes."""
    item, base, twins = draft.item, draft.base, draft.twins
    assert item.image is not None
    fresh = new_record(item.entry, item.image, item.header, item.content)
    if base is not None:
        return merged(base, fresh, item.header.annotation, given_at=item.image.changed_at)
    # An image is hidden if all its copies are.
    hidden = bool(twins) and all(twin.hidden for twin in twins)
    return marked(fresh, hidden=hidden, favourite=any(FAVOURITE in twin.tags for twin in twins))


def _is_certain(record: Record) -> bool:
    """Return whether a missing file was moved or deleted, and not its drive unmounted.

    The nearest folder that exists must have two parts at least, since another machine may have
    others.
    """
    folder = nearest(series_of(record.path, record.origin.etag)) or ""
    return len(Path(folder).parts) > _SHARED_PARTS and not doubt(folder)
