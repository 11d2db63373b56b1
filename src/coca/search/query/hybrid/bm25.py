"""Full-text search (BM25) over all captions of a collection, held in memory."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from coca.search.milvus.ann.pagination import check_text
from coca.search.milvus.client.change_log import Counted, Watch, read_in_background
from coca.search.query.hybrid.bm25_index import BM25Index
from coca.search.query.hybrid.fusion import CaptionChoice
from coca.search.records import Hit, Origin


@dataclass(frozen=True)
class _Read:
    """Captions of one read of the collection."""

    writes: int
    ids: np.ndarray
    captions: Mapping[str, str]
    index: BM25Index


@runtime_checkable
class CaptionStore(Counted, Protocol):
    """Collection whose captions can be read, such as a `Collection`."""

    def changed_since(self, writes: int) -> list[str] | None:
        """List the ids written since `writes` had this value; None if that is too long ago."""
        ...

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

    Thread-safe. Captions are read once. The next search reads those again that were written through
    the same index since, or all when the number of records has changed. Replacements by other
    clients of a server appear after a full re-read, which runs in the background after twenty times
    the read time.
    """

    def __init__(self, index: CaptionStore, captions: CaptionChoice = "all") -> None:
        """Read the captions.

        Args:
            index: The collection.
            captions: Captions to rank.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._index, self._captions = index, captions
        self._watch = Watch(index, check_s=0.0)
        self._lock = threading.Lock()
        self._held = self._read_all()

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
        if filter and scores.any():
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
                    self._held = self._with_own_writes(held)
                    return self._held
        if self._watch.is_old():
            read_in_background("captions", self._read_again, self._lock)
        return held

    def _lacks_something(self, held: _Read) -> bool:
        # Counting takes Lite some milliseconds, where `writes` has the writes of all clients.
        return self._index.writes != held.writes or (
            not self._index.sees_all_writes and self._watch.has_changed(len(held.ids))
        )

    def _read_again(self) -> None:
        """Read the captions again; the caller holds the lock."""
        self._held = self._read_all()

    def _read_all(self) -> _Read:
        with self._watch.reading() as writes:
            return self._indexed(writes, self._index.origins())

    def _with_own_writes(self, held: _Read) -> _Read:
        """Read what was written through this index; all if others wrote, or too much is new."""
        writes = self._index.writes
        changed = set(self._index.changed_since(held.writes) or ())
        if not changed:
            return self._read_all()
        stay = {id: text for id, text in held.captions.items() if id not in changed}
        return self._indexed(writes, self._index.origins(changed), stay)

    def _indexed(
        self,
        writes: int,
        rows: Iterable[tuple[str, str, str, Origin]],
        others: Mapping[str, str] | None = None,
    ) -> _Read:
        """Build the index of the captions of `rows` and of `others`.

        Captions that are not ranked count as empty, since the number of records is compared.
        """
        captions = dict(others or {})
        for id, _, caption, origin in rows:
            ranked = self._captions == "all" or origin.caption_source(caption) == "given"
            captions[id] = caption if ranked else ""
        ids = np.array(list(captions), dtype=object)
        return _Read(writes, ids, captions, BM25Index(list(captions.values())))
