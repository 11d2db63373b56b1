"""Copy of a collection in memory: exact search in milliseconds, and the words of its captions.

Milvus remains the source of truth: it evaluates filters, and on a server supplies the fields of
hits. The copy has the ids, the vectors and the words of captions, and follows the writes one by
one. That of Milvus Lite is on disk as well, memory-mapped; see `coca.search.query.saved_copy`.

Dimensions: N records, Q queries, E embedding.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32

from coca.core.errors import StorageError
from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.filters import all_of, with_ids
from coca.search.milvus.collection import Collection
from coca.search.milvus.lite import Watch, folder_of, read_in_background
from coca.search.query.ranking import ranked_hit
from coca.search.query.saved_copy import (
    CopyRows,
    CountedCaptions,
    RankedParts,
    SavedCopy,
    counted_captions,
    nearest_rows,
    ranked_rows,
    read_copy,
    weighted_vectors,
    word_hits,
    write_copy,
)
from coca.search.query.vectors import VectorScan
from coca.search.query.words import WordHits
from coca.search.records import (
    CollectionInfo,
    Hit,
    Origin,
    Record,
    batches,
    group_of,
    is_hidden,
    text_inside,
)
from coca.search.search_options import (
    MAX_RESULTS,
    CaptionChoice,
    Ranking,
    SearchOptions,
    Side,
    check_text,
)

logger = logging.getLogger(__name__)

_READ_ROWS = 1_000
_QUERY_ROWS = 64
"""Queries in a batch."""
_FILTERS = 64
"""Number of cached filter results; each takes one byte a record."""
_WRITTEN_ROWS = 10_000
"""Number of written rows that are merged with the others."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Item:
    """What is read of a record."""

    caption: str
    is_given: bool
    metadata: Mapping[str, Any]
    vector: Float32[np.ndarray, " E"] | None = None
    text_vector: Float32[np.ndarray, " E"] | None = None
    hit: Hit | None = None

    def counted(self, choice: CaptionChoice) -> str:
        """Return the caption if it counts, else an empty one."""
        return self.caption if choice == "all" or self.is_given else ""


class CollectionCopy:
    """Copy of one collection in memory with the interface of `Collection` for searches.

    Thread-safe. The next search sees writes through the same collection, and on Milvus Lite all
    writes. For writes of other clients of a server, the number of records is compared every
    `check_s` seconds. Records that other clients replaced appear after a full re-read. It runs in
    the background when the copy is twenty times as old as the read took: some seconds for a few
    thousand records, minutes for 100,000. `refresh` reads at once.

    Example:
        with CollectionCopy(Collection.open("pictures.db")) as copy:
            engine = SearchEngine(coca.load(), copy)
    """

    def __init__(
        self,
        collection: Collection | Callable[[], Collection],
        *,
        vectors: bool = True,
        saved: SavedCopy | None = None,
        check_s: float = 5.0,
        progress: ProgressMaker = silent,
    ) -> None:
        """Read the collection, or of Milvus Lite what its copy on disk lacks.

        A copy of Milvus Lite that lacks anything is then written to disk.
        """
        self.has_vectors, self._check_s = vectors, check_s
        self._lock, self._reading = threading.RLock(), threading.Lock()
        self._saved, self._open = saved, collection
        self._source: Collection | None = None
        self._watch: Watch | None = None
        self._is_saved = False
        if saved is not None:
            self._info, self._rows = saved.info, saved.rows
        if saved is None or saved.changed or isinstance(collection, Collection):
            self._connect(progress)

    @property
    def info(self) -> CollectionInfo:
        """Description of the collection."""
        return self._info if self._source is None else self._source.info

    def in_milvus(self) -> Collection:
        """Return the collection in Milvus; it is opened when it is first needed."""
        return self._connect()[0]

    def _connect(self, progress: ProgressMaker = silent) -> tuple[Collection, Watch]:
        with self._lock:
            if self._source is None or self._watch is None:
                source = self._open if isinstance(self._open, Collection) else self._open()
                self._source, self._watch = source, Watch(source, self._check_s)
                try:
                    if not self._take_saved(source):
                        self._rows = self._read(progress)
                    self._up_to_date()
                    self.save()
                except BaseException:
                    # The next search tries again, and never answers from older rows.
                    self._source = self._watch = None
                    if source is not self._open:
                        source.close()
                    raise
            return self._source, self._watch

    def _take_saved(self, source: Collection) -> bool:
        """Take the copy on disk, with what was written since; return whether it is right."""
        lease, saved = source.lease, self._saved
        self._saved = None
        if lease is None or not self.has_vectors or source.own_name not in lease.copies:
            return False
        stamp, writes = lease.copies[source.own_name]
        if saved is None or saved.stamp != stamp:
            saved = read_copy(folder_of(lease.path, source.own_name), stamp)
        if saved is None:
            return False
        self._rows, self._is_saved = saved.rows, True
        self._rows.writes = writes
        self._update(self._rows, saved.changed)
        return True

    def __len__(self) -> int:
        return len(self._rows.rows)

    def __enter__(self) -> "CollectionCopy":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the collection; closing twice does nothing."""
        if self._source is not None or isinstance(self._open, Collection):
            self.in_milvus().close()

    def save(self) -> None:
        """Write the copy to disk, in the folder of Milvus Lite, unless it is there.

        A copy of a server, or of words alone, is in memory only. A full disk is logged.
        """
        source = self.in_milvus()
        lease = source.lease
        if lease is None or not self.has_vectors:
            return
        with self._lock, lease.write_lock:
            rows = self._up_to_date()
            if self._is_saved:
                return
            # What is in the log only would change the files at the next opening.
            source.flush()
            if (state := lease.state_of(source.own_name)) is None:
                return
            folder = folder_of(lease.path, source.own_name)
            try:
                write_copy(folder, state, source.info, rows)
            except StorageError as error:
                logger.warning("each search reads the collection again: %s", error)
                return
            lease.copies[source.own_name] = (state.stamp, source.writes)
            # Memory-mapped, so that it takes less memory.
            if saved := read_copy(folder, state.stamp):
                self._rows, self._is_saved = saved.rows, True
                self._rows.writes = source.writes

    def refresh(self, progress: ProgressMaker = silent) -> None:
        """Read all records again."""
        with self._reading:
            self._read_again(progress)

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        return self.in_milvus().get(ids)

    def records_of(self, hits: Iterable[Hit]) -> dict[str, Record]:
        """Return the records of hits, as far as the copy and the hits have their fields.

        These are caption, its source, metadata, and both vectors. Records that were deleted
        meanwhile are missing.
        """
        by_id = {hit.id: hit for hit in hits}
        if not self.has_vectors:
            return self.get(by_id)
        with self._lock:
            rows = self._up_to_date()
            there = [hit for hit in by_id.values() if hit.id in rows.rows]
            at = np.array([rows.rows[hit.id] for hit in there], np.int64)
            images, texts = rows.images.vectors(at), rows.texts.vectors(at)
            return {
                hit.id: Record(
                    id=hit.id,
                    path=hit.path,
                    caption=hit.caption,
                    metadata=hit.metadata,
                    vector=images[number],
                    text_vector=texts[number] if rows.has_text[at[number]] else None,
                    origin=Origin(captioned=hit.caption_source == "model"),
                )
                for number, hit in enumerate(there)
            }

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter, in no order."""
        return self.in_milvus().ids(filter)

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the exact nearest records to each vector; see `Collection.search`."""
        page = SearchOptions.of(k=k, **options)
        page.check_page(MAX_RESULTS)
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)

        def first(some: Sequence[int], count: int) -> list[list[tuple[str, float]]]:
            with self._kept(page) as (rows, kept):
                scan = rows.images if page.on == "image" else rows.texts
                if page.on == "text":
                    kept = kept & rows.has_text
                return nearest_rows(rows.ids, scan, queries[list(some)], count, kept)

        answers = self._collect(first, len(queries), page)
        return page.keep_similar(
            [[replace(hit, score=score) for hit, score in answer] for answer in answers]
        )

    def search_ranked(
        self, query: Float32[np.ndarray, "1 E"], text: str, ranking: Ranking, page: SearchOptions
    ) -> list[Hit]:
        """Search by image, caption and words, exactly; see `coca.search.query.ranking`.

        Returns:
            Hits, best first by `fused_score`; `score` is the cosine of query and image. Where no
            caption counts, they are those of `search`.
        """
        page.check_page(MAX_RESULTS)
        if not self.has_words(ranking.captions):
            return self.search(query, **vars(page))[0]

        def first(some: Sequence[int], count: int) -> list[list[tuple[str, RankedParts]]]:
            with self._kept(page) as (rows, kept):
                if page.min_score is not None:
                    kept = kept & rows.images.at_least(query[0], page.min_score)
                captions = self._captions(rows, ranking.captions)
                return [ranked_rows(rows, captions, query[0], text, ranking, count, kept)]

        return [
            ranked_hit(
                hit,
                ranking,
                image=parts.image,
                caption=parts.caption,
                bm25=parts.bm25,
                inside=parts.inside,
            )
            for hit, parts in self._collect(first, 1, page)[0]
        ]

    def words(self, text: str, captions: CaptionChoice = "given") -> WordHits:
        """Find the records whose caption shares a word with a text."""
        check_text(text)
        with self._lock:
            rows = self._up_to_date()
            return word_hits(rows, self._captions(rows, captions), text)

    def has_words(self, choice: CaptionChoice) -> bool:
        """Return whether any record has a caption that counts, or text inside its image."""
        with self._lock:
            captions = self._captions(self._up_to_date(), choice)
            return bool(captions.counts.any()) or not captions.texts.is_empty

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """Return the ids that are not hidden, sorted, with their vectors in that order, read-only.

        Milvus returns rows in an order that changes with writes and differs between servers.
        Choices by position, such as the first of equal vectors, must not depend on it.
        """
        with self._lock:
            rows = self._up_to_date()
            ids = sorted(rows.rows)
            order = np.array([rows.rows[id] for id in ids], np.int64)
            if rows.hidden.any():
                order = order[~rows.hidden[order]]
                ids = [rows.ids[row] for row in order]
            scan = rows.images if on == "image" else rows.texts
            in_order = len(order) == len(rows.ids) and bool(np.all(order[1:] > order[:-1]))
            return ids, scan.rows if in_order else scan.vectors(order)

    def _collect(
        self,
        first: Callable[[Sequence[int], int], list[list[tuple[str, T]]]],
        queries: int,
        page: SearchOptions,
    ) -> list[list[tuple[Hit, T]]]:
        """Collect the hits of each query, in growing batches until every query has enough."""
        wanted = page.k + page.offset
        found: list[dict[str, tuple[Hit, T]]] = [{} for _ in range(queries)]
        done, count = 0, 2 * wanted if page.group_by else wanted
        short = list(range(queries))
        while short:
            answers = [
                answer for some in batches(short, _QUERY_ROWS) for answer in first(some, count)
            ]
            # One request to Milvus for all queries. What was deleted meanwhile is skipped.
            new = dict.fromkeys(id for answer in answers for id, _ in answer[done:])
            hits = self._read_hits(list(new)) if new else {}
            for query, answer in zip(short, answers, strict=True):
                for id, known in answer[done:]:
                    if (hit := hits.get(id)) is not None:
                        key = group_of(hit) if page.group_by else id
                        found[query].setdefault(key, (hit, known))
            short = [
                query
                for query, answer in zip(short, answers, strict=True)
                if len(answer) == count and len(found[query]) < wanted
            ]
            done, count = count, 4 * count
        return [list(one.values())[page.offset : wanted] for one in found]

    def _read_hits(self, ids: Sequence[str]) -> dict[str, Hit]:
        """Read the fields of hits; those of deleted records are missing."""
        if self.has_vectors and (self._source is None or self._source.lease):
            with self._lock:
                rows = self._rows
                return {id: rows.lines.read(rows.rows[id]) for id in ids if id in rows.rows}
        return {hit.id: hit for hit in self.in_milvus().hits(dict.fromkeys(ids, 0.0))}

    @contextmanager
    def _kept(self, page: SearchOptions) -> Iterator[tuple[CopyRows, Bool[np.ndarray, " N"]]]:
        """Lock the rows; yield them, up to date, with the mask of those that are searched."""
        if not (filter := page.filter):
            with self._lock:
                rows = self._up_to_date()
                yield rows, rows.found()
            return
        while True:
            self._evaluate(filter)
            with self._lock:
                rows = self._rows
                # Other threads may have read all rows again, or ousted the result, meanwhile.
                if filter in rows.kept:
                    mask = rows.kept[filter][1]
                    kept = rows.found()
                    kept[: len(mask)] &= mask
                    kept[len(mask) :] = False
                    yield rows, kept
                    return

    def _evaluate(self, filter: str) -> None:
        """Evaluate a filter by Milvus: once, and again for records that were written since.

        Other searches do not wait for it.
        """
        with self._lock:
            rows = self._up_to_date()
            writes, (since, mask) = rows.writes, rows.kept.get(filter, (-1, np.zeros(0, bool)))
            if since == writes:
                return
            changed = self.in_milvus().changed_since(since) if since >= 0 else None
        if changed is None or len(changed) > _READ_ROWS:
            changed, mask = None, np.zeros(0, bool)
            found = self.in_milvus().ids(filter)
        else:
            found = self.in_milvus().ids(all_of(filter, with_ids(set(changed))))
        with self._lock:
            if self._rows is not rows:
                # Read again meanwhile: the mask is of other rows.
                return
            kept = np.zeros(len(rows.ids), bool)
            kept[: len(mask)] = mask
            for ids, keeps in ((changed or (), False), (found, True)):
                kept[[rows.rows[id] for id in ids if id in rows.rows]] = keeps
            rows.kept[filter] = (writes, kept)
            while len(rows.kept) > _FILTERS:
                del rows.kept[next(iter(rows.kept))]

    def _captions(self, rows: CopyRows, choice: CaptionChoice) -> CountedCaptions:
        """Return the captions that count; read them again for another choice than before."""
        if choice not in rows.captions:
            captions, texts = [""] * len(rows.ids), [""] * len(rows.ids)
            for id, item in _captioned(chain.from_iterable(self.in_milvus().read_hits())):
                if (row := rows.rows.get(id)) is not None:
                    captions[row], texts[row] = item.counted(choice), text_inside(item.metadata)
            rows.captions[choice] = counted_captions(captions, texts)
        return rows.captions[choice]

    def _up_to_date(self) -> CopyRows:
        """Return the rows, with what was written since the last search; the lock is held."""
        if self._source is None or self._watch is None:
            # Others may have written it: Milvus Lite is not locked.
            if self._saved is not None and self._saved.is_current:
                return self._rows
            self._connect()
            assert self._source is not None
            assert self._watch is not None
        rows = self._rows
        if self._source.writes != rows.writes:
            # Taken before the read, so that writes during the read are read again.
            writes = self._source.writes
            changed = self._source.changed_since(rows.writes)
            if changed is None:
                self._rows = self._read(silent)
            else:
                self._update(rows, changed)
                rows.writes = writes
        elif not self._source.sees_all_writes and self._watch.is_due():
            if self._watch.has_changed(len(rows.rows)):
                there = set(self._source.ids())
                self._update(rows, there ^ rows.rows.keys())
            # Results may have changed with fields that are not in memory.
            rows.kept.clear()
        if self._watch.is_old():
            read_in_background("a copy", partial(self._read_again, silent), self._reading)
        return self._rows

    def _read_again(self, progress: ProgressMaker) -> None:
        """Read everything again; the caller holds `_reading`, so that newer rows stay."""
        rows = self._read(progress)
        with self._lock:
            # The next search adds what was written meanwhile.
            self._rows = rows

    def _read(self, progress: ProgressMaker) -> CopyRows:
        """Read the whole collection."""
        source, watch = self._connect()
        self._is_saved = False
        with watch.reading() as writes:
            rows = CopyRows(writes)
            if self.has_vectors:
                # Sorted, so that `vectors` need not copy the matrix.
                ids = sorted(source.ids())
                with progress("reading vectors", len(ids)) as bar:
                    items: dict[str, _Item] = {}
                    for batch in batches(ids, _READ_ROWS):
                        items |= self._items(batch)
                        bar.advance(len(batch))
            else:
                items = dict(_captioned(chain.from_iterable(source.read_hits())))
        rows.add(items)
        if self.has_vectors:
            rows.images = VectorScan(self._stacked([item.vector for item in items.values()]))
            rows.texts = VectorScan(self._stacked([item.text_vector for item in items.values()]))
        rows.captions["given"] = counted_captions(
            [item.counted("given") for item in items.values()],
            [text_inside(item.metadata) for item in items.values()],
        )
        self._set_fields(rows, items)
        return rows

    def _set_fields(self, rows: CopyRows, items: Mapping[str, _Item]) -> None:
        """Set the masks of records, and on Milvus Lite the fields of hits."""
        for id, item in items.items():
            row = rows.rows[id]
            rows.has_text[row] = item.text_vector is not None
            rows.hidden[row] = is_hidden(item.metadata)
            if item.hit is not None:
                rows.lines.write(row, item.hit)

    def _update(self, rows: CopyRows, changed: Iterable[str]) -> None:
        """Read records again that were written or deleted, and update their rows."""
        changed = list(dict.fromkeys(changed))
        items = self._items(changed)
        self._is_saved &= not changed
        new = [id for id in items if id not in rows.rows]
        rows.add(new)
        gone = [rows.rows.pop(id) for id in changed if id not in items and id in rows.rows]
        rows.exists[gone] = False
        there = [rows.rows[id] for id in items]
        self._set_fields(rows, items)
        for choice, captions in rows.captions.items():
            none = dict.fromkeys(gone, "")
            counted = {rows.rows[id]: item.counted(choice) for id, item in items.items()}
            captions.words.replace(none | counted)
            texts = {rows.rows[id]: text_inside(item.metadata) for id, item in items.items()}
            captions.texts.replace(none | texts)
            captions.counts = np.append(captions.counts, np.zeros(len(new), bool))
            captions.counts[gone] = False
            captions.counts[there] = [bool(caption) for caption in counted.values()]
        if self.has_vectors and there:
            at = np.array(there, np.int64)
            rows.images = rows.images.replaced(
                at, self._stacked([item.vector for item in items.values()])
            )
            rows.texts = rows.texts.replaced(
                at, self._stacked([item.text_vector for item in items.values()])
            )
            if rows.images.written > _WRITTEN_ROWS:
                # Merged, since all written rows are scored.
                rows.images, rows.texts = (
                    VectorScan(one.rows) for one in (rows.images, rows.texts)
                )
                rows.fused = None
            elif rows.fused is not None:
                ranking, fused = rows.fused
                rows.fused = (ranking, fused.replaced(at, weighted_vectors(rows, ranking, at)))

    def _items(self, ids: Sequence[str]) -> dict[str, _Item]:
        """Read what the copy has of these records, in their order; missing ids are skipped."""
        if not self.has_vectors:
            found = dict(_captioned(self.in_milvus().hits(dict.fromkeys(ids, 0.0))))
        else:
            source = self.in_milvus()
            found = {
                id: _Item(
                    record.caption,
                    record.caption_source == "given",
                    record.metadata,
                    record.vector,
                    record.text_vector,
                    None if source.lease is None else record.as_hit(),
                )
                for id, record in source.get(ids).items()
            }
        return {id: found[id] for id in ids if id in found}

    def _stacked(
        self, vectors: Sequence[Float32[np.ndarray, " E"] | None]
    ) -> Float32[np.ndarray, "N E"]:
        stacked = np.zeros((len(vectors), self.info.embed_dim), np.float32)
        for row, vector in enumerate(vectors):
            if vector is not None:
                stacked[row] = vector
        return stacked


def _captioned(hits: Iterable[Hit]) -> Iterator[tuple[str, _Item]]:
    for hit in hits:
        yield hit.id, _Item(hit.caption, hit.caption_source == "given", hit.metadata)
