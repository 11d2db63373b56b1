"""Hybrid search: fuse dense (vector) and full-text (BM25) rankings."""

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
"""Hits of each ranking that are fused; the next depth only appends hits."""

_RRF = Fusion()


@runtime_checkable
class FullTextSearch(Protocol):
    """Full-text search over captions."""

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their captions, best first."""
        ...


def word_search(index: Searchable) -> FullTextSearch:
    """Return the full-text search of a collection: its own, or BM25 in memory.

    Raises:
        SearchError: The collection supports neither.
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
    """Search by vector and by the words of captions, and fuse both rankings.

    Args:
        index: Collection for dense search.
        by_words: Full-text search over the captions of the same collection.
        words: Query text for BM25.
        query: Query vector, of length 1.
        fusion: Fusion of the two rankings.
        k: Maximum number of hits.
        filter: Milvus filter expression.
        offset: Number of best hits to skip, for paging.
        min_score: Minimum cosine of every hit, -1 to 1, also of full-text hits.
        on: Vector field to search.
        group_by: `"album"` returns only the best image of each album or video.

    Returns:
        Hits, best first; `score` is the fused score. Fusion needs both rankings, so it covers the
        first 256 hits of each. Deeper hits follow, fused among the first 1,024, and so on.

    Raises:
        SearchError: The text is empty, `k` or `offset` is out of range, or the collection cannot
            answer.
    """
    if not words.strip():
        raise ArgumentError("a hybrid search compares words, and the query has none: add a text")
    check_page(k, offset, MAX_RESULTS)
    joined: dict[str, Hit] = {}
    for depth in _DEPTHS:
        dense_hits = index.search(query, depth, filter=filter, on=on)[0]
        text_hits = by_words.full_text_search(words, depth, filter=filter)
        fused = fuse([dense_hits, text_hits], [1 - fusion.words, fusion.words], fusion)
        if min_score is not None:
            fused = _similar_enough(fused, index, dense_hits, query[0], min_score, on)
        # Earlier hits keep their rank: pages of every depth are slices of one list.
        for hit in fused:
            joined.setdefault(group_of(hit) if group_by else hit.id, hit)
        if len(joined) >= offset + k or max(len(dense_hits), len(text_hits)) < depth:
            break
    return list(joined.values())[offset : offset + k]


def _similar_enough(
    fused: Sequence[Hit],
    index: Searchable,
    dense_hits: Sequence[Hit],
    query: Float[np.ndarray, " E"],
    min_score: float,
    on: Side,
) -> list[Hit]:
    """Keep hits with a cosine of at least `min_score`, computed here for full-text hits."""
    cosines = {hit.id: hit.score for hit in dense_hits}
    rest = index.get([hit.id for hit in fused if hit.id not in cosines])
    cosines |= {id: cosine(query, record, on) for id, record in rest.items()}
    return [hit for hit in fused if cosines.get(hit.id, -np.inf) >= min_score]
