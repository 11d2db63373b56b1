"""BM25 over captions, for a collection whose Milvus ranks no words, and for one held in memory."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from coca.core.extras import require

_K1, _B = 1.2, 0.75
"""Milvus's own defaults, and Lucene's."""
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared: without case, and in one form of Unicode."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class BM25Index:
    """Ranks texts by the words that they share with a query: rare words and short texts first."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the words.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._size = len(texts)
        split = [words_of(text) for text in texts]
        self._known = {word for words in split for word in words}
        # Nothing can be counted where there is no word.
        if self._known:
            bm25s = require("bm25s", extra="search")
            self._ranker = bm25s.BM25(method="lucene", k1=_K1, b=_B)
            self._ranker.index(split, show_progress=False)

    def scores(self, query: str) -> Float32[np.ndarray, " N"]:
        """How well each text fits; 0 where it shares no word with the query."""
        asked = [word for word in words_of(query) if word in self._known]
        if not asked:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._ranker.get_scores(asked), np.float32)
