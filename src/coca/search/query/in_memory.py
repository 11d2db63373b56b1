"""A collection whose vectors are kept in memory as well: exact answers in milliseconds.

Milvus stays the truth. It says which records a filter keeps, and what stands in a hit; what is kept
here are ids and vectors.

Dimensions: N records, Q queries, E embedding.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock

import numpy as np
from jaxtyping import Bool, Float, Float32

from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.filters import check_filter
from coca.search.milvus.change_log import Watch, read_beside
from coca.search.milvus.collection import MAX_RESULTS, Collection, Side
from coca.search.milvus.pagination import COSINE_DIGITS, check_group_by, check_page, group_of
from coca.search.milvus.record_store import check_side
from coca.search.query.bm25 import Captions
from coca.search.records import CollectionInfo, GroupBy, Hit, Record

_READ_ROWS = 1_000
_QUERY_ROWS = 64
"""Queries at a time: their scores for all records stand in memory."""
_FILTERS = 64
"""What so many filters keep is remembered, a byte a record each."""

HINT_ROWS, WARN_ROWS = 100_000, 300_000
"""On Lite each search goes through all ids, whatever the index: about 0.5 ms for 1,000 records."""


def advice_on_size(info: CollectionInfo) -> str:
    """What to do about a collection that Milvus Lite is slow with; empty if it is small enough."""
    if not info.server_version.startswith("milvus_lite") or info.count < HINT_ROWS:
        return ""
    many = "far too many" if info.count >= WARN_ROWS else "many"
    return (
        f"{info.count:,} records are {many} for Milvus Lite, where each search takes about "
        f"{info.count // 2_000} ms: `coca migrate` copies them to a Milvus server, and from Python "
        "`coca.search.query.in_memory.InMemoryIndex` takes a sixth of the time or less"
    )


@dataclass(frozen=True)
class _Copy:
    """The vectors as they were at one time; never changed, so that threads may search it."""

    writes: int
    """How many writes of the index it knows."""
    ids: list[str]
    rows: dict[str, int]
    sides: dict[Side, Float32[np.ndarray, "N E"]]
    spoken: Bool[np.ndarray, " N"]
    """Which records have a caption's vector."""
    kept: dict[str, Bool[np.ndarray, " N"]] = field(default_factory=dict)
    """Filter -> which records it keeps, as Milvus said; of the last `_FILTERS` that were asked."""


class InMemoryIndex:
    """Answers searches of one collection from memory; to be used like its `Collection`.

    Threads may share it: each search answers from one copy, which is replaced as a whole.

    What is written through the same index, or on Milvus Lite by anybody, is seen by the next
    search. On a server others may write as well: every `check_s` seconds the number of records is
    compared. A record that others replaced is seen when all is read anew, which is done beside the
    searches when the copy is twenty times as old as reading took: some seconds for a few thousand
    records, minutes for 100,000. `refresh` does so at once.

    Example:
        with InMemoryIndex(Collection.open("pictures.db")) as resident:
            engine = SearchEngine(coca.load("nano"), resident)
    """

    def __init__(
        self, index: Collection, *, check_s: float = 5.0, progress: ProgressMaker = silent
    ) -> None:
        """Read all vectors; 100,000 of 512 numbers take 0.2 GB, twice that with their captions'.

        For a moment two copies are there, whenever something has changed.

        Args:
            index: The collection; stays open as long as it is searched.
            check_s: How long others' writes may be overlooked at least, in seconds.
            progress: Shows how far reading is.
        """
        self.info = index.info
        self._index = index
        self._watch = Watch(index, check_s)
        self._lock, self._reading, self._keeping = Lock(), Lock(), Lock()
        self._captions: Captions | None = None
        self._copy = self._read(progress)

    def __len__(self) -> int:
        return len(self._copy.ids)

    def __enter__(self) -> "InMemoryIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the collection that it answers for; closing twice does nothing."""
        self._index.close()

    def refresh(self, progress: ProgressMaker = silent) -> None:
        """Read all records anew."""
        with self._reading:
            self._read_anew(progress)

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        group_by: GroupBy | None = None,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, exactly; see `Collection.search`.

        Raises:
            SearchError: As `Collection.search`.
        """
        check_page(k, offset, MAX_RESULTS)
        check_side(on)
        check_group_by(group_by)
        check_filter(filter)
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)
        copy = self._up_to_date()
        kept = self._fulfil(copy, filter)
        if on == "text":
            kept = kept & copy.spoken
        answers = []
        for start in range(0, len(queries), _QUERY_ROWS):
            scores = queries[start : start + _QUERY_ROWS] @ copy.sides[on].T
            if not kept.all():
                scores[:, ~kept] = -np.inf
            answers += self._best(copy, scores, k, offset, group_by)
        return answers

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        return self._index.get(ids)

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """The records whose captions share most with a text; see `Captions.full_text_search`."""
        with self._lock:
            if self._captions is None:
                self._captions = Captions(self._index)
            captions = self._captions
        return captions.full_text_search(text, k, filter=filter, offset=offset)

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """The ids of all records, sorted, and their vectors in that order; not to be written to.

        Milvus returns rows in an order that changes with writes and differs between servers. What
        is chosen by position, such as the first of equal vectors, must not depend on it.
        """
        copy = self._up_to_date()
        order = sorted(range(len(copy.ids)), key=copy.ids.__getitem__)
        if order == list(range(len(order))):
            return copy.ids, copy.sides[on]
        return [copy.ids[row] for row in order], copy.sides[on][order]

    def _best(
        self,
        copy: _Copy,
        scores: Float32[np.ndarray, "Q N"],
        k: int,
        offset: int,
        group_by: GroupBy | None,
    ) -> list[list[Hit]]:
        """The hits of each query, from its scores of all records."""
        wanted = k + offset
        found: list[dict[str, Hit]] = [{} for _ in scores]
        # From the best on, in batches that grow, until none is left.
        done, count = 0, 2 * wanted if group_by else wanted
        possible = int(np.count_nonzero(scores[0] > -np.inf))
        short = list(range(len(scores)))
        while short and done < possible:
            last = min(done + count, possible)
            rows = [_first(copy.ids, scores[query], last)[done:] for query in short]
            # Milvus is asked once for all queries.
            ids = dict.fromkeys(copy.ids[row] for some in rows for row in some)
            hits = {hit.id: hit for hit in self._index.hits(dict.fromkeys(ids, 0.0))}
            for query, some in zip(short, rows, strict=True):
                for row in some:
                    if (hit := hits.get(copy.ids[row])) is None:
                        continue
                    key = group_of(hit) if group_by else hit.id
                    found[query].setdefault(key, replace(hit, score=float(scores[query, row])))
            short = [query for query in short if len(found[query]) < wanted]
            done, count = last, 4 * count
        return [list(one.values())[offset:wanted] for one in found]

    def _up_to_date(self) -> _Copy:
        """The copy, after what was written since the last look has been read."""
        if self._index.writes != self._copy.writes:
            with self._lock:
                # Another thread may have read it meanwhile.
                if self._index.writes != self._copy.writes:
                    self._copy = self._with_own_writes(self._copy)
        elif self._watch.is_due() and self._lock.acquire(blocking=False):
            # One thread looks; the others need not wait for what nobody promised them.
            try:
                self._copy = self._with_changed_number(self._copy)
            finally:
                self._lock.release()
        if self._watch.is_old():
            read_beside("vectors", partial(self._read_anew, silent), self._reading)
        return self._copy

    def _read_anew(self, progress: ProgressMaker) -> None:
        """Whoever calls it holds `_reading`: an older copy must not replace a newer one."""
        copy = self._read(progress)
        with self._lock:
            # The next search adds what was written through this index meanwhile.
            self._copy = copy

    def _with_own_writes(self, copy: _Copy) -> _Copy:
        # Before they are read, so that what comes while they are is read again.
        writes = self._index.writes
        changed = self._index.changed_since(copy.writes)
        if changed is None:
            return self._read(silent)
        return self._with(copy, list(dict.fromkeys(changed)), set(changed), writes)

    def _with_changed_number(self, copy: _Copy) -> _Copy:
        if self._watch.has_changed(len(copy.ids)):
            there = self._index.ids()
            new = [id for id in there if id not in copy.rows]
            return self._with(copy, new, copy.rows.keys() - set(there), copy.writes)
        # What a filter keeps may have changed with words, which are not kept here.
        return copy if self._index.sees_all_writes else replace(copy, kept={})

    def _read(self, progress: ProgressMaker) -> _Copy:
        """A copy of all that is there."""
        nothing = np.zeros((0, self.info.embed_dim), np.float32)
        with self._watch.reading() as writes:
            empty = _Copy(writes, [], {}, {"image": nothing, "text": nothing}, np.zeros(0, bool))
            # Sorted, so that `vectors` need not copy them.
            return self._with(empty, sorted(self._index.ids()), set(), writes, progress)

    def _with(
        self,
        copy: _Copy,
        ids: list[str],
        gone: set[str],
        writes: int,
        progress: ProgressMaker = silent,
    ) -> _Copy:
        """A copy without the rows of `gone`, and with what Milvus holds for `ids`."""
        stay = np.array([id not in gone for id in copy.ids], dtype=bool)
        parts = {on: [matrix[stay]] for on, matrix in copy.sides.items()}
        kept_ids = [id for id in copy.ids if id not in gone]
        spoken = [copy.spoken[stay]]
        with progress("reading vectors", len(ids)) as bar:
            for start in range(0, len(ids), _READ_ROWS):
                part = ids[start : start + _READ_ROWS]
                found = self._index.get(part)
                read = [found[id] for id in part if id in found]
                kept_ids += [record.id for record in read]
                for on, matrices in parts.items():
                    matrices.append(_stacked(read, on, self.info.embed_dim))
                spoken.append(np.array([one.text_vector is not None for one in read], bool))
                bar.advance(min(_READ_ROWS, len(ids) - start))
        return _Copy(
            writes,
            kept_ids,
            {id: row for row, id in enumerate(kept_ids)},
            {on: np.concatenate(some) for on, some in parts.items()},
            np.concatenate(spoken),
        )

    def _fulfil(self, copy: _Copy, filter: str) -> Bool[np.ndarray, " N"]:
        """Which records a filter keeps; asked once, as long as an answer may be old."""
        if not filter:
            return np.ones(len(copy.ids), bool)
        if (kept := copy.kept.get(filter)) is None:
            kept = np.zeros(len(copy.ids), bool)
            kept[[copy.rows[id] for id in self._index.ids(filter) if id in copy.rows]] = True
            with self._keeping:
                while len(copy.kept) >= _FILTERS:
                    del copy.kept[next(iter(copy.kept))]
                copy.kept[filter] = kept
        return kept


def _first(ids: list[str], scores: Float32[np.ndarray, " N"], count: int) -> np.ndarray:
    """The rows of the best scores, best first, and by id where scores agree."""
    least = np.partition(scores, -count)[-count]
    # All that agree with the last score, since an id decides which of them come first.
    rows = np.flatnonzero(scores >= least - 10.0**-COSINE_DIGITS)
    names = np.array([ids[row] for row in rows])
    return rows[np.lexsort((names, -np.round(scores[rows], COSINE_DIGITS)))][:count]


def _stacked(read: list[Record], on: Side, embed_dim: int) -> Float32[np.ndarray, "N E"]:
    vectors = np.zeros((len(read), embed_dim), np.float32)
    for row, record in enumerate(read):
        vector = record.vector if on == "image" else record.text_vector
        if vector is not None:
            vectors[row] = vector
    return vectors
