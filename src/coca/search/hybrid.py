"""Hybrid search: by vectors and by the words of captions, joined into one ranking."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from coca.core.errors import ArgumentError, SearchError
from coca.search.captions import Captions
from coca.search.engine import Searchable, SearchEngine
from coca.search.fusion import Fusion, fuse
from coca.search.milvus import MAX_RESULTS, Index, Side
from coca.search.ranking import check_page
from coca.search.records import Hit
from coca.search.terms import Term

_DEPTHS = (256, 1_024, 4_096, MAX_RESULTS)
"""Hits of each ranking that are joined; the next depth only gives what comes behind."""

_RRF = Fusion()


@runtime_checkable
class WordSearch(Protocol):
    """Ranks captions by their words."""

    def search_words(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """The records whose captions share most with a text, the best first."""
        ...


def word_search(index: Searchable) -> WordSearch:
    """What ranks the captions of this collection: itself, or else its captions in memory.

    Raises:
        SearchError: It is of a kind that neither does nor can be read.
    """
    if isinstance(index, Index) and not index.has_words:
        return Captions(index)
    if isinstance(index, WordSearch):
        return index
    raise SearchError(f"collection {index.info.collection!r} cannot be searched by words")


def search_hybrid(
    engine: SearchEngine,
    by_words: WordSearch,
    words: str,
    *,
    terms: Sequence[Term] = (),
    fusion: Fusion = _RRF,
    k: int = 10,
    filter: str = "",
    offset: int = 0,
    on: Side = "image",
) -> list[Hit]:
    """The records nearest to a query whose captions also share its words.

    Args:
        engine: Searches by vectors.
        by_words: Searches the captions of the same collection.
        words: What captions should say.
        terms: The query by vectors; default: the words.
        fusion: How the two rankings become one.
        k: How many results, at most.
        filter: Milvus expression that a record must fulfil.
        offset: How many of the best to leave out, for paging.
        on: What the query's vector is compared with.

    Returns:
        The best first; `score` is what the rankings were joined by. Two rankings cannot be joined
        before they are read, so the first 256 of each are; those that are deeper follow behind,
        joined among the first 1,024, and so on.

    Raises:
        SearchError: No words, `k` or `offset` out of range, or the collection cannot answer.
    """
    if not words.strip():
        raise ArgumentError("a hybrid search compares words, and the query has none: add a text")
    check_page(k, offset, MAX_RESULTS)
    query = engine.query(terms or [Term(text=words)])
    joined: dict[str, Hit] = {}
    for depth in _DEPTHS:
        near = engine.index.search(query, depth, filter=filter, on=on)[0]
        said = by_words.search_words(words, depth, filter=filter)
        # What was joined before keeps its place: pages are cut from one list, whatever their depth.
        for hit in fuse([near, said], [1 - fusion.words, fusion.words], fusion):
            joined.setdefault(hit.id, hit)
        if len(joined) >= offset + k or max(len(near), len(said)) < depth:
            break
    return list(joined.values())[offset : offset + k]
