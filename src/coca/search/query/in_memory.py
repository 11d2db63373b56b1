"""In-memory index: exact (brute-force) nearest neighbours in milliseconds.

Milvus remains the source of truth: it evaluates filters and supplies the fields of hits. Only ids
and vectors are in memory.

Dimensions: N records, Q queries, E embedding.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.milvus.ann import COSINE_DIGITS, group_of
from coca.search.milvus.collection import MAX_RESULTS, Collection
from coca.search.milvus.lite import Watch, read_in_background
from coca.search.query.fusion import Captions
from coca.search.records import Hit, Record
from coca.search.search_options import SearchOptions, Side

_READ_ROWS = 1_000
_QUERY_ROWS = 64
"""Queries in a batch: the scores for all records are in memory."""
_FILTERS = 64
"""Number of cached filter results; each takes one byte a record."""


@dataclass(frozen=True)
class _Copy:
    """Immutable snapshot of the vectors, so that threads may search it."""

    writes: int
    """Number of writes of the index that it includes."""
    ids: list[str]
    rows: dict[str, int]
    sides: dict[Side, Float32[np.ndarray, "N E"]]
    has_text: Bool[np.ndarray, " N"]
    """Mask of records with a caption vector."""
    kept: dict[str, Bool[np.ndarray, " N"]] = field(default_factory=dict)
    """Filter -> mask of the records it keeps, for the last `_FILTERS` filters."""


class InMemoryIndex:
    """In-memory copy of one collection's vectors with the interface of `Collection`.

    Thread-safe: each search uses one copy, which is replaced as a whole.

    The next search sees writes through the same index, and on Milvus Lite all writes. For writes of
    other clients of a server, the number of records is compared every `check_s` seconds. Records
    that other clients replaced appear after a full re-read. It runs in the background when the copy
    is twenty times as old as the read took: some seconds for a few thousand records, minutes for
    100,000. `refresh` reads at once.

    Example:
        with InMemoryIndex(Collection.open("pictures.db")) as resident:
            engine = SearchEngine(coca.load(), resident)
    """

    def __init__(
        self, collection: Collection, *, check_s: float = 5.0, progress: ProgressMaker = silent
    ) -> None:
        """Read all vectors; 100,000 of 512 numbers take 0.2 GB, twice that with caption vectors.

        During an update, two copies are in memory.

        Args:
            collection: The collection; must stay open.
            check_s: Interval of the check for other clients' writes, in seconds.
            progress: Optional progress callback.
        """
        self.info = collection.info
        self._index = collection
        self._watch = Watch(collection, check_s)
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
        """Close the collection; closing twice does nothing."""
        self._index.close()

    def refresh(self, progress: ProgressMaker = silent) -> None:
        """Read all records again."""
        with self._reading:
            self._read_again(progress)

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        **options: Any,
    ) -> list[list[Hit]]:
        """Find the exact nearest records to each vector; see `Collection.search`.

        Raises:
            SearchError: As `Collection.search`.
        """
        page = SearchOptions.of(k=k, **options)
        page.check_page(MAX_RESULTS)
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)
        copy = self._up_to_date()
        kept = self._evaluate(copy, page.filter)
        if page.on == "text":
            kept = kept & copy.has_text
        answers = []
        for start in range(0, len(queries), _QUERY_ROWS):
            scores = queries[start : start + _QUERY_ROWS] @ copy.sides[page.on].T
            if not kept.all():
                scores[:, ~kept] = -np.inf
            answers += self._best(copy, scores, page)
        return page.keep_similar(answers)

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read the records with these ids; missing ids are skipped."""
        return self._index.get(ids)

    @property
    def supports_full_text(self) -> bool:
        """Whether `full_text_search` is available: always, by BM25 in memory."""
        return True

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions; see `Captions.full_text_search`."""
        with self._lock:
            if self._captions is None:
                self._captions = Captions(self._index)
            captions = self._captions
        return captions.full_text_search(text, k, filter=filter, offset=offset)

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """Return all ids, sorted, and their vectors in that order; both are read-only.

        Milvus returns rows in an order that changes with writes and differs between servers.
        Choices by position, such as the first of equal vectors, must not depend on it.
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
        page: SearchOptions,
    ) -> list[list[Hit]]:
        """Collect the hits of each query from its scores of all records."""
        wanted = page.k + page.offset
        found: list[dict[str, Hit]] = [{} for _ in scores]
        # In growing batches, best first, until every query has enough hits.
        done, count = 0, 2 * wanted if page.group_by else wanted
        possible = int(np.count_nonzero(scores[0] > -np.inf))
        short = list(range(len(scores)))
        while short and done < possible:
            last = min(done + count, possible)
            rows = [_first(copy.ids, scores[query], last)[done:] for query in short]
            # One request to Milvus for all queries.
            ids = dict.fromkeys(copy.ids[row] for some in rows for row in some)
            hits = {hit.id: hit for hit in self._index.hits(dict.fromkeys(ids, 0.0))}
            for query, some in zip(short, rows, strict=True):
                for row in some:
                    if (hit := hits.get(copy.ids[row])) is None:
                        continue
                    key = group_of(hit) if page.group_by else hit.id
                    found[query].setdefault(key, replace(hit, score=float(scores[query, row])))
            short = [query for query in short if len(found[query]) < wanted]
            done, count = last, 4 * count
        return [list(one.values())[page.offset : wanted] for one in found]

    def _up_to_date(self) -> _Copy:
        """Return the copy, updated with writes since the last check."""
        if self._index.writes != self._copy.writes:
            with self._lock:
                # Another thread may have updated it meanwhile.
                if self._index.writes != self._copy.writes:
                    self._copy = self._with_own_writes(self._copy)
        elif self._watch.is_due() and self._lock.acquire(blocking=False):
            # One thread checks; the others do not wait, as freshness within `check_s` is not
            # guaranteed.
            try:
                self._copy = self._with_changed_number(self._copy)
            finally:
                self._lock.release()
        if self._watch.is_old():
            read_in_background("vectors", partial(self._read_again, silent), self._reading)
        return self._copy

    def _read_again(self, progress: ProgressMaker) -> None:
        """Read everything again.

        The caller holds `_reading`, so that no older copy replaces a newer one.
        """
        copy = self._read(progress)
        with self._lock:
            # The next search adds the writes made through this index meanwhile.
            self._copy = copy

    def _with_own_writes(self, copy: _Copy) -> _Copy:
        # Taken before the read, so that writes during the read are read again.
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
        # Filter results may have changed with fields that are not in memory.
        return copy if self._index.sees_all_writes else replace(copy, kept={})

    def _read(self, progress: ProgressMaker) -> _Copy:
        """Read a copy of the whole collection."""
        nothing = np.zeros((0, self.info.embed_dim), np.float32)
        with self._watch.reading() as writes:
            empty = _Copy(writes, [], {}, {"image": nothing, "text": nothing}, np.zeros(0, bool))
            # Sorted, so that `vectors` need not copy the matrix.
            return self._with(empty, sorted(self._index.ids()), set(), writes, progress)

    def _with(
        self,
        copy: _Copy,
        ids: list[str],
        gone: set[str],
        writes: int,
        progress: ProgressMaker = silent,
    ) -> _Copy:
        """Return a copy without the rows of `gone` and with the current rows of `ids`."""
        stay = np.array([id not in gone for id in copy.ids], dtype=bool)
        parts = {on: [matrix[stay]] for on, matrix in copy.sides.items()}
        kept_ids = [id for id in copy.ids if id not in gone]
        has_text = [copy.has_text[stay]]
        with progress("reading vectors", len(ids)) as bar:
            for start in range(0, len(ids), _READ_ROWS):
                part = ids[start : start + _READ_ROWS]
                found = self._index.get(part)
                read = [found[id] for id in part if id in found]
                kept_ids += [record.id for record in read]
                for on, matrices in parts.items():
                    matrices.append(_stacked(read, on, self.info.embed_dim))
                has_text.append(np.array([one.text_vector is not None for one in read], bool))
                bar.advance(min(_READ_ROWS, len(ids) - start))
        return _Copy(
            writes,
            kept_ids,
            {id: row for row, id in enumerate(kept_ids)},
            {on: np.concatenate(some) for on, some in parts.items()},
            np.concatenate(has_text),
        )

    def _evaluate(self, copy: _Copy, filter: str) -> Bool[np.ndarray, " N"]:
        """Evaluate a filter to a mask of records, cached within one copy."""
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
    """Return the rows of the best scores, best first; ties are broken by id."""
    threshold = np.partition(scores, -count)[-count]
    # Includes all ties with the last score, as ids decide their order.
    rows = np.flatnonzero(scores >= threshold - 10.0**-COSINE_DIGITS)
    names = np.array([ids[row] for row in rows])
    return rows[np.lexsort((names, -np.round(scores[rows], COSINE_DIGITS)))][:count]


def _stacked(read: list[Record], on: Side, embed_dim: int) -> Float32[np.ndarray, "N E"]:
    vectors = np.zeros((len(read), embed_dim), np.float32)
    for row, record in enumerate(read):
        vector = record.vector if on == "image" else record.text_vector
        if vector is not None:
            vectors[row] = vector
    return vectors
