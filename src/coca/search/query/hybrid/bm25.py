"""Full-text search (BM25) over all captions of a collection, held in memory."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from coca.search.milvus.ann.pagination import check_text
from coca.search.milvus.client.change_log import Counted, Watch, read_in_background
from coca.search.query.hybrid.bm25_index import BM25Index
from coca.search.records import Hit, Origin


@dataclass(frozen=True)
class _Read:
    """Captions of one read of the collection."""

    writes: int
    ids: np.ndarray
    index: BM25Index


@runtime_checkable
class CaptionStore(Counted, Protocol):
    """Collection whose captions can be read, such as a `Collection`."""

    def origins(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, str, str, Origin]]:
        """Iterate over id, path, caption and origin of records."""
        ...

    def ids(self, filter: str = "") -> list[str]:
        """List the ids of all records that match a filter."""
        ...

    def hits(self, scores: Mapping[str, float]) -> list[Hit]:
        """Build hits with these scores, in this order."""
        ...


class Captions:
    """BM25 search over captions for servers that lack it: Milvus before 2.5.

    Thread-safe. Captions are read once. The next search reads them again after a write through the
    same index, or when the number of records has changed. Replacements by other clients of a server
    appear after a full re-read, which runs in the background after twenty times the read time.
    """

    def __init__(self, index: CaptionStore) -> None:
        """Read the captions.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._index = index
        self._watch = Watch(index, check_s=0.0)
        self._lock = threading.Lock()
        self._held = self._read()

    def refresh(self) -> None:
        """Read the captions again."""
        with self._lock:
            self._read_again()

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions; captions that share no word are excluded.

        Args:
            text: Query words.
            k: Maximum number of hits.
            filter: Milvus filter expression.
            offset: Number of best hits to skip, for paging.

        Returns:
            Hits, best first; the score is BM25.

        Raises:
            SearchError: The text is empty, or Milvus rejects the filter.
        """
        check_text(text)
        held = self._up_to_date()
        scores = held.index.scores(text)
        if filter:
            kept = set(self._index.ids(filter))
            scores = np.where([id in kept for id in held.ids], scores, 0)
        # Ties are broken by id, so that pages never overlap.
        rows = np.flatnonzero(scores)
        rows = rows[np.lexsort((held.ids[rows], -scores[rows]))][offset : offset + k]
        return self._index.hits({held.ids[row]: float(scores[row]) for row in rows})

    def _up_to_date(self) -> _Read:
        while self._lacks_something(held := self._held):
            with self._lock:
                # Another thread may have read them meanwhile, and may have begun too early.
                if self._held is held:
                    self._read_again()
                    return self._held
        if self._watch.is_old():
            read_in_background("captions", self._read_again, self._lock)
        return held

    def _lacks_something(self, held: _Read) -> bool:
        return self._index.writes != held.writes or self._watch.has_changed(len(held.ids))

    def _read_again(self) -> None:
        """Read the captions again; the caller holds the lock."""
        self._held = self._read()

    def _read(self) -> _Read:
        with self._watch.reading() as writes:
            rows = [(id, caption) for id, _, caption, _ in self._index.origins()]
            ids = np.array([id for id, _ in rows], dtype=object)
            return _Read(writes, ids, BM25Index([caption for _, caption in rows]))
