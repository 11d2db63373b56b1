"""Hybrid search: fuse dense (vector) and full-text (BM25) rankings."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError, SearchError
from coca.search.filters import all_of
from coca.search.index_params.params import MAX_RESULTS
from coca.search.milvus.ann.pagination import group_of
from coca.search.query.hybrid.bm25 import Captions, CaptionStore
from coca.search.query.hybrid.fusion import Fusion, fuse
from coca.search.query.searchable import FullTextSearch, Searchable, cosine
from coca.search.records import Hit
from coca.search.search_options import SearchKeywords, SearchOptions, Side

_DEPTHS = (256, 1_024, 4_096, MAX_RESULTS)
"""Hits of each ranking that are fused; the next depth only appends hits."""

MANY_CAPTIONS = 50_000
"""Records from which on reading all captions takes longer than a search should (about a second)."""

_RRF = Fusion()
_GIVEN = 'caption_source == "given"'


def typed_fusion(index: Searchable) -> Fusion | bool:
    """Choose the fusion of a query that a person typed.

    Returns:
        Fusion with the captions that people gave; False if the collection is too large to read all
        captions for one search, or cannot be searched by words.
    """
    by_words = index.supports_full_text or isinstance(index, CaptionStore)
    few = index.info.count < MANY_CAPTIONS
    return Fusion(captions="given") if by_words and few else False


def word_search(index: Searchable) -> FullTextSearch:
    """Return the full-text search of a collection: its own, or BM25 in memory.

    Raises:
        SearchError: The collection supports neither.
    """
    if index.supports_full_text:
        return index
    if isinstance(index, CaptionStore):
        return Captions(index)
    raise SearchError(f"collection {index.info.collection!r} cannot be searched by words")


def search_hybrid(
    index: Searchable,
    by_words: FullTextSearch,
    words: str,
    query: Float[np.ndarray, "1 E"],
    *,
    fusion: Fusion = _RRF,
    k: int = 10,
    **options: Unpack[SearchKeywords],
) -> list[Hit]:
    """Search by vector and by the words of captions, and fuse both rankings.

    Args:
        index: Collection for dense search.
        by_words: Full-text search over the captions of the same collection.
        words: Query text for BM25.
        query: Query vector, of length 1.
        fusion: Fusion of the two rankings.
        k: Maximum number of hits.
        **options: Fields of `SearchOptions`; `min_score` also holds for full-text hits.

    Returns:
        Hits, best first; `score` is the fused score. Fusion needs both rankings, so it covers the
        first 256 hits of each. Deeper hits follow, fused among the first 1,024, and so on. With
        `fusion.captions` of `given`, a query whose words no given caption has is a dense search.

    Raises:
        SearchError: The text is empty, `k` or `offset` is out of range, or the collection cannot
            answer.
    """
    if not words.strip():
        raise ArgumentError("a hybrid search compares words, and the query has none: add a text")
    page = SearchOptions.of(k, **options)
    page.check_page(MAX_RESULTS)
    dense: SearchKeywords = {**options, "offset": 0, "min_score": None, "group_by": None}
    given = fusion.captions == "given"
    among = all_of(page.filter, _GIVEN) if given else page.filter
    joined: dict[str, Hit] = {}
    for depth in _DEPTHS:
        text_hits = by_words.full_text_search(words, depth, filter=among)
        if given and not text_hits:
            return index.search(query, k, **options)[0]
        dense_hits = index.search(query, depth, **dense)[0]
        fused = fuse([dense_hits, text_hits], [1 - fusion.text_weight, fusion.text_weight], fusion)
        if page.min_score is not None:
            fused = _similar_enough(fused, index, dense_hits, query[0], page.min_score, page.on)
        # Earlier hits keep their rank: pages of every depth are slices of one list.
        for hit in fused:
            joined.setdefault(group_of(hit) if page.group_by else hit.id, hit)
        if len(joined) >= page.offset + k or max(len(dense_hits), len(text_hits)) < depth:
            break
    return list(joined.values())[page.offset : page.offset + k]


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
