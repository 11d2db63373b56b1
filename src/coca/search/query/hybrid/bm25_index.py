"""BM25 index over captions, for servers without full-text search and for in-memory collections."""

import logging
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from coca.core.extras import require

K1, B = 1.2, 0.75
"""Defaults of Milvus and Lucene."""
_WORD = re.compile(r"\w+")


def split_words(text: str) -> list[str]:
    """Split a text into words, case-folded and in Unicode form NFKC."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def coverage(words: Sequence[Sequence[str]], text: str) -> float:
    """Compute the fraction of the words of a query that a text has.

    Args:
        words: The forms of each word, of which the text needs one.
        text: The text.

    Returns:
        0 to 1; 1 for a query without words.
    """
    held = set(split_words(text))
    forms = [[set(split_words(form)) for form in word] for word in words]
    found = [any(form <= held for form in word) for word in forms if all(word)]
    return sum(found) / len(found) if found else 1.0


class BM25Index:
    """BM25 index of texts: rare shared words and short texts score higher."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Build the index.

        Raises:
            MissingExtraError: The package `bm25s` is not installed.
        """
        self._size = len(texts)
        split = [split_words(text) for text in texts]
        self._known = {word for words in split for word in words}
        # bm25s cannot index texts without any word.
        if self._known:
            bm25s = require("bm25s", extra="search")
            # Its import sets the level DEBUG, which the log handler of `mcp` would print.
            logging.getLogger("bm25s").setLevel(logging.WARNING)
            self._ranker = bm25s.BM25(method="lucene", k1=K1, b=B)
            self._ranker.index(split, show_progress=False)

    def scores(self, query: str) -> Float32[np.ndarray, " N"]:
        """Compute the BM25 score of each text; 0 where it shares no word with the query."""
        terms = [word for word in split_words(query) if word in self._known]
        if not terms:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._ranker.get_scores(terms), np.float32)
