"""A collection whose vectors are kept in memory as well: exact answers in milliseconds.

Milvus stays the truth. It says which records a filter keeps, and what stands in a hit; what is kept
here are ids and vectors. The vector of an id changes only with the caption, since an id is the hash
of a picture's bytes.

Letters: N records, Q queries, E embedding.
"""

import time
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Float32

from coca.core.errors import SearchError
from coca.core.progress import ProgressMaker, silent
from coca.search import records
from coca.search.captions import Captions
from coca.search.milvus import MAX_RESULTS, Index, Side
from coca.search.records import CollectionInfo, Hit, Record

_READ_ROWS = 1_000
_QUERY_ROWS = 64
"""Queries at a time: their scores for all records stand in memory."""

HINT_ROWS, WARN_ROWS = 100_000, 300_000
"""On Lite each search goes through all ids, whatever the index: about 0.5 ms for 1,000 records."""


def advice_on_size(info: CollectionInfo) -> str:
    """What to do about a collection that Milvus Lite is slow with; empty if it is small enough."""
    if not info.server_version.startswith("milvus_lite") or info.count < HINT_ROWS:
        return ""
    slow = f"{info.count:,} records are {'far too ' if info.count >= WARN_ROWS else ''}many for "
    return (
        f"{slow}Milvus Lite, which takes about {info.count // 2_000} ms to search them: "
        "`coca.search.resident.Resident` answers in a tenth of it, and a server (--uri) at any size"
    )


class Resident:
    """Answers searches of one collection from memory; to be used like its `Index`.

    Changes that are made through the same index are seen by the next search. Others may write as
    well: every `check_s` seconds the number of records is compared, and if it has changed, ids are
    read anew. `refresh` does so at once.

    Example:
        with Index.open("pictures.db") as index:
            engine = SearchEngine(coca.load("nano"), Resident(index))
    """

    def __init__(
        self, index: Index, *, check_s: float = 5.0, progress: ProgressMaker = silent
    ) -> None:
        """Read all vectors; 100,000 of 512 numbers take 0.2 GB, twice that with their captions'.

        Args:
            index: The collection; stays open as long as it is searched.
            check_s: How old an answer may be where others write too, in seconds.
            progress: Shows how far reading is.
        """
        self.info = index.info
        self._index = index
        self._check_s = check_s
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._sides: dict[Side, Float32[np.ndarray, "N E"]] = {}
        self._spoken = np.zeros(0, bool)
        self._captions: Captions | None = None
        self._kept: dict[str, Bool[np.ndarray, " N"]] = {}
        self.refresh(progress)

    def __len__(self) -> int:
        return len(self._ids)

    def refresh(self, progress: ProgressMaker = silent) -> None:
        """Compare with Milvus, record by record, and read what is new."""
        self._writes = self._index.writes
        self._checked = time.monotonic()
        there = self._index.ids()
        gone = self._rows.keys() - set(there)
        self._take_in(there if not self._ids else _new(there, self._rows), gone, progress)

    def search(
        self,
        vectors: Float[np.ndarray, "Q E"],
        k: int = 10,
        *,
        filter: str = "",
        offset: int = 0,
        on: Side = "image",
        one_each_album: bool = False,
    ) -> list[list[Hit]]:
        """The nearest records to each vector, exactly; see `Index.search`.

        Raises:
            SearchError: As `Index.search`.
        """
        if k < 1 or offset < 0 or k + offset > MAX_RESULTS:
            raise SearchError(
                f"k={k} with offset={offset}: k is at least 1, offset at least 0, "
                f"and both together at most {MAX_RESULTS:,}"
            )
        names = [f"query {row}" for row in range(len(vectors))]
        queries = records.unit_rows(vectors, self.info.embed_dim, names)
        self._catch_up()
        kept = self._fulfil(filter)
        if on == "text":
            kept = kept & self._spoken
        answers = []
        for start in range(0, len(queries), _QUERY_ROWS):
            scores = queries[start : start + _QUERY_ROWS] @ self._sides[on].T
            if not kept.all():
                scores[:, ~kept] = -np.inf
            answers += [self._best(row, k, offset, one_each_album) for row in scores]
        return answers

    def get(self, ids: Iterable[str]) -> dict[str, Record]:
        """The records with these ids, as far as they are there."""
        return self._index.get(ids)

    def search_words(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """The records whose captions share most with a text; see `Captions.search_words`."""
        if self._captions is None:
            self._captions = Captions(self._index)
        return self._captions.search_words(text, k, filter=filter, offset=offset)

    def vectors(self, on: Side = "image") -> tuple[list[str], Float32[np.ndarray, "N E"]]:
        """The ids of all records, and their vectors in the same order; not to be written to."""
        self._catch_up()
        return self._ids, self._sides[on]

    def _best(
        self, scores: Float32[np.ndarray, " N"], k: int, offset: int, one_each_album: bool
    ) -> list[Hit]:
        """The hits of one query, from its scores of all records."""
        found: dict[str, Hit] = {}
        wanted = k + offset
        for hits in self._in_order(scores, wanted if not one_each_album else 2 * wanted):
            for hit in hits:
                key = f"album {hit.album}" if one_each_album and hit.album else f"id {hit.id}"
                found.setdefault(key, hit)
            if len(found) >= wanted:
                break
        return list(found.values())[offset:wanted]

    def _in_order(self, scores: Float32[np.ndarray, " N"], count: int) -> Iterator[list[Hit]]:
        """Hits from the best on, in batches that grow, until none is left."""
        done = 0
        possible = int(np.count_nonzero(scores > -np.inf))
        while done < possible:
            last = min(done + count, possible)
            rows = np.argpartition(-scores, last - 1)[:last]
            rows = rows[np.argsort(-scores[rows], kind="stable")][done:]
            yield self._index.hits({self._ids[row]: float(scores[row]) for row in rows})
            done, count = last, 4 * count

    def _catch_up(self) -> None:
        """Read what was written since the last look."""
        if self._index.writes != self._writes:
            changed = self._index.changed_since(self._writes)
            if changed is None:
                self.refresh()
            else:
                self._writes = self._index.writes
                self._take_in(
                    list(dict.fromkeys(changed)), set(changed) & self._rows.keys(), silent
                )
        elif time.monotonic() > self._checked + self._check_s:
            self._checked = time.monotonic()
            if self._index.count() != len(self._ids):
                self.refresh()
            elif not self._index.capabilities.lite:
                self._kept.clear()

    def _take_in(self, ids: list[str], gone: set[str], progress: ProgressMaker) -> None:
        """Drop the rows of `gone`, and add what Milvus holds for `ids`."""
        stay = np.array([id not in gone for id in self._ids], dtype=bool)
        parts = {on: [matrix[stay]] for on, matrix in self._sides.items()}
        parts = parts or {"image": [], "text": []}
        kept_ids = [id for id in self._ids if id not in gone]
        spoken = [self._spoken[stay]]
        with progress("reading vectors", len(ids)) as bar:
            for start in range(0, len(ids), _READ_ROWS):
                read = list(self._index.get(ids[start : start + _READ_ROWS]).values())
                kept_ids += [record.id for record in read]
                for on, matrices in parts.items():
                    matrices.append(_stacked(read, on, self.info.embed_dim))
                spoken.append(np.array([one.text_vector is not None for one in read], bool))
                bar.advance(min(_READ_ROWS, len(ids) - start))
        self._ids = kept_ids
        self._rows = {id: row for row, id in enumerate(kept_ids)}
        nothing = np.zeros((0, self.info.embed_dim), np.float32)
        self._sides = {on: np.concatenate([nothing, *some]) for on, some in parts.items()}
        self._spoken = np.concatenate(spoken)
        self._kept.clear()

    def _fulfil(self, filter: str) -> Bool[np.ndarray, " N"]:
        """Which records a filter keeps; asked once, as long as an answer may be old."""
        if not filter:
            return np.ones(len(self._ids), bool)
        if filter not in self._kept:
            kept = np.zeros(len(self._ids), bool)
            kept[[self._rows[id] for id in self._index.ids(filter) if id in self._rows]] = True
            self._kept[filter] = kept
        return self._kept[filter]


def _new(ids: list[str], known: dict[str, int]) -> list[str]:
    return [id for id in ids if id not in known]


def _stacked(read: list[Record], on: Side, embed_dim: int) -> Float32[np.ndarray, "N E"]:
    vectors = np.zeros((len(read), embed_dim), np.float32)
    for row, record in enumerate(read):
        vector = record.vector if on == "image" else record.text_vector
        if vector is not None:
            vectors[row] = vector
    return vectors
