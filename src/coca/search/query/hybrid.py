"""Hybrid search: by vectors and by the words of captions, joined into one ranking."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError, SearchError
from coca.search.milvus.collection import MAX_RESULTS, Collection, Side
from coca.search.milvus.pagination import check_page, group_of
from coca.search.query.bm25 import Captions
from coca.search.query.fusion import Fusion, fuse
from coca.search.query.searchable import Searchable, cosine
from coca.search.records import GroupBy, Hit

_DEPTHS = (256, 1_024, 4_096, MAX_RESULTS)
"""Hits of each ranking that are joined; the next depth only gives what comes behind."""

_RRF = Fusion()


@runtime_checkable
class FullTextSearch(Protocol):
    """Ranks captions by their words."""

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """The records whose captions share most with a text, the best first."""
        ...


def word_search(index: Searchable) -> FullTextSearch:
    """What ranks the captions of this collection: itself, or else its captions in memory.

    Raises:
        SearchError: It is of a kind that neither does nor can be read.
    """
    if isinstance(index, Collection) and not index.supports_full_text:
        return Captions(index)
    if isinstance(index, FullTextSearch):
        return index
    raise SearchError(f"collection {index.info.collection!r} cannot be searched by words")


def search_hybrid(
    index: Searchable,
    by_words: FullTextSearch,
    words: str,
    query: Float[np.ndarray, "1 E"],
    *,
    fusion: Fusion = _RRF,
    k: int = 10,
    filter: str = "",
    offset: int = 0,
    min_score: float | None = None,
    on: Side = "image",
    group_by: GroupBy | None = None,
) -> list[Hit]:
    """The records nearest to a query whose captions also share its words.

    Args:
        index: Searches by vectors.
        by_words: Searches the captions of the same collection.
        words: What captions should say.
        query: The query's vector, of length 1.
        fusion: How the two rankings become one.
        k: How many results, at most.
        filter: Milvus expression that a record must fulfil.
        offset: How many of the best to leave out, for paging.
        min_score: Cosine below which nothing is returned, -1 to 1, whatever a hit was found by.
        on: What the query's vector is compared with.
        group_by: `"album"` returns only the best image of each album or video.

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
    joined: dict[str, Hit] = {}
    for depth in _DEPTHS:
        near = index.search(query, depth, filter=filter, on=on)[0]
        said = by_words.full_text_search(words, depth, filter=filter)
        fused = fuse([near, said], [1 - fusion.words, fusion.words], fusion)
        if min_score is not None:
            fused = _similar_enough(fused, index, near, query[0], min_score, on)
        # What was joined before keeps its place: pages are cut from one list, whatever their depth.
        for hit in fused:
            joined.setdefault(group_of(hit) if group_by else hit.id, hit)
        if len(joined) >= offset + k or max(len(near), len(said)) < depth:
            break
    return list(joined.values())[offset : offset + k]


def _similar_enough(
    fused: Sequence[Hit],
    index: Searchable,
    near: Sequence[Hit],
    query: Float[np.ndarray, " E"],
    min_score: float,
    on: Side,
) -> list[Hit]:
    """The hits whose cosine is `min_score` or more; that of hits by words is computed here."""
    cosines = {hit.id: hit.score for hit in near}
    rest = index.get([hit.id for hit in fused if hit.id not in cosines])
    cosines |= {id: cosine(query, record, on) for id, record in rest.items()}
    return [hit for hit in fused if cosines.get(hit.id, -np.inf) >= min_score]
