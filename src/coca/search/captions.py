"""The captions of a whole collection in memory, to be ranked by their words."""

import numpy as np

from coca.search.milvus import Index
from coca.search.records import Hit
from coca.search.words import WordIndex


class Captions:
    """Searches captions by their words where Milvus itself cannot: before 2.5.

    They are read once, and again when something was written through the same index or the number
    of records has changed.
    """

    def __init__(self, index: Index) -> None:
        """Read the captions.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._index = index
        self.refresh()

    def refresh(self) -> None:
        """Read the captions again."""
        self._writes = self._index.writes
        rows = [(id, caption) for id, _, caption, _ in self._index.origins()]
        self._ids = np.array([id for id, _ in rows], dtype=object)
        self._words = WordIndex([caption for _, caption in rows])

    def search_words(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """The records whose captions share most with a text; those that share no word are left out.

        Args:
            text: Words.
            k: How many, at most.
            filter: Milvus expression that a record must fulfil.
            offset: How many of the best to leave out, for paging.

        Returns:
            The best first; their score is BM25.

        Raises:
            SearchError: Milvus does not understand the filter.
        """
        if self._index.writes != self._writes or self._index.count() != len(self._ids):
            self.refresh()
        scores = self._words.scores(text)
        if filter:
            kept = set(self._index.ids(filter))
            scores = np.where([id in kept for id in self._ids], scores, 0)
        # By id where scores are equal, so that pages never overlap.
        rows = np.flatnonzero(scores)
        rows = rows[np.lexsort((self._ids[rows], -scores[rows]))][offset : offset + k]
        return self._index.hits({self._ids[row]: float(scores[row]) for row in rows})
