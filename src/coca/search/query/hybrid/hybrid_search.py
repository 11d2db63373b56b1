"""Hybrid search: fuse rankings by images, by vectors of captions, and by full text (BM25)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError, SearchError
from coca.search.filters import all_of
from coca.search.index_params.params import MAX_RESULTS
from coca.search.milvus.ann.pagination import group_of
from coca.search.query.hybrid.bm25 import Captions, CaptionStore
from coca.search.query.hybrid.bm25_index import coverage
from coca.search.query.hybrid.fusion import CaptionChoice, Fusion, fuse
from coca.search.query.query_terms import Term
from coca.search.query.searchable import FullTextSearch, Searchable, cosine
from coca.search.query.short_queries import join_forms
from coca.search.records import Hit
from coca.search.search_options import SearchKeywords, SearchOptions, Side

DEPTHS = (64, 256, 1_024, 4_096, MAX_RESULTS)
"""Hits of each ranking that are fused; the next depth only appends hits. Over 1,880 drawings with
their names, 100 everyday queries have a right hit in the first five for 87 % at 32, 64 and 128, and
for 86 % at 256, whose search takes Lite three times as long as one of 64.
"""

MANY_CAPTIONS = 50_000
"""Records from which on reading all captions takes longer than a search should (three seconds)."""

_DEFAULT = Fusion()
_GIVEN = 'caption_source == "given"'


def typed_fusion(index: Searchable, terms: Sequence[Term], on: Side = "image") -> Fusion | bool:
    """Choose the fusion of a query that a person typed.

    Args:
        index: Collection that is searched.
        terms: Terms of the query.
        on: Vector field that is searched.

    Returns:
        Fusion with the captions that people gave. False if the query has an image, an item or no
        positive text, or searches captions by vector; also if the collection is too large to read
        all captions for one search, or cannot be searched by words.
    """
    texts = all(term.text is not None for term in terms)
    if on != "image" or not texts or all(term.weight <= 0 for term in terms):
        return False
    by_words = index.supports_full_text or isinstance(index, CaptionStore)
    few = index.info.count < MANY_CAPTIONS
    return Fusion(captions="given") if by_words and few else False


def word_search(index: Searchable, captions: CaptionChoice = "all") -> FullTextSearch:
    """Return the full-text search of a collection: its own, or BM25 in memory.

    Args:
        index: The collection.
        captions: Captions to rank. On Milvus Lite, given captions are ranked in memory: its filter
            on the source takes 0.1 ms a record for each search.

    Raises:
        SearchError: The collection supports neither.
    """
    in_memory = captions == "given" and index.info.server_version.startswith("milvus_lite")
    if isinstance(index, CaptionStore) and (in_memory or not index.supports_full_text):
        return Captions(index, captions)
    if index.supports_full_text:
        return index if captions == "all" else _GivenOnly(index)
    raise SearchError(f"collection {index.info.collection!r} cannot be searched by words")


@dataclass(frozen=True)
class _GivenOnly:
    """Full-text search of the captions that people gave."""

    index: FullTextSearch

    def full_text_search(
        self, text: str, k: int = 10, *, filter: str = "", offset: int = 0
    ) -> list[Hit]:
        """Rank records by BM25 of their given captions, best first."""
        among = all_of(*([filter] if filter else []), _GIVEN)
        return self.index.full_text_search(text, k, filter=among, offset=offset)


def search_hybrid(
    index: Searchable,
    by_words: FullTextSearch,
    words: Sequence[Sequence[str]],
    query: Float[np.ndarray, "1 E"],
    *,
    fusion: Fusion = _DEFAULT,
    k: int = 10,
    **options: Unpack[SearchKeywords],
) -> list[Hit]:
    """Search by images, by vectors of captions and by words of captions, and fuse the rankings.

    Args:
        index: Collection for dense search.
        by_words: Full-text search over those captions of the same collection that `fusion` names;
            see `word_search`.
        words: Words of the query for BM25, each in one or more forms; see `word_forms`.
        query: Query vector, of length 1.
        fusion: Fusion of the rankings.
        k: Maximum number of hits.
        **options: Fields of `SearchOptions`; `min_score` also holds for full-text hits.

    Returns:
        Hits, best first by `fused_score`; `score` is the cosine. Fusion needs all rankings, so it
        covers the first 64 hits of each. Deeper hits follow, fused among the first 256, and so on.
        With `fusion.captions` of `given`, a query near no given caption is a dense search.

    Raises:
        SearchError: The text is empty, `k` or `offset` is out of range, or the collection cannot
            answer.
    """
    text = join_forms(words)
    if not text.strip():
        raise ArgumentError("a hybrid search compares words, and the query has none: add a text")
    page = SearchOptions.of(k, **options)
    page.check_page(MAX_RESULTS)
    dense: SearchKeywords = {**options, "offset": 0, "min_score": None, "group_by": None}
    joined: dict[str, Hit] = {}
    for depth in DEPTHS:
        text_hits = by_words.full_text_search(text, depth, filter=page.filter)
        caption_hits = _by_caption_vector(index, query, depth, fusion, page.on, dense)
        if fusion.captions == "given" and not any(map(fusion.counts, (*text_hits, *caption_hits))):
            return index.search(query, k, **options)[0]
        dense_hits = index.search(query, depth, **dense)[0]
        by_vector = fusion.text_weight * fusion.vector_share if caption_hits else 0.0
        fused = fuse(
            [dense_hits, caption_hits, text_hits],
            [1 - fusion.text_weight, by_vector, fusion.text_weight - by_vector],
            fusion,
            has_all=fusion.counts,
            coverage=lambda hit: coverage(words, hit.caption),
        )
        fused = _with_known_scores(fused, dense_hits, text_hits)
        if page.min_score is not None:
            fused = _with_cosines(fused, index, query[0], page.on)
            fused = [hit for hit in fused if hit.score >= page.min_score]
        # Earlier hits keep their rank: pages of every depth are slices of one list.
        for hit in fused:
            joined.setdefault(group_of(hit) if page.group_by else hit.id, hit)
        longest = max(map(len, (dense_hits, caption_hits, text_hits)))
        if len(joined) >= page.offset + k or longest < depth:
            break
    hits = list(joined.values())[page.offset : page.offset + k]
    return _with_cosines(hits, index, query[0], page.on)


def _by_caption_vector(
    index: Searchable,
    query: Float[np.ndarray, "1 E"],
    depth: int,
    fusion: Fusion,
    on: Side,
    dense: SearchKeywords,
) -> list[Hit]:
    """Rank all captions by vector; none if the dense ranking does so, or if they have no weight.

    Captions that do not count are ranked as well, so that the others are normalized by distance
    from the query and not among a few.
    """
    if on == "text" or fusion.text_weight * fusion.vector_share == 0:
        return []
    captions: SearchKeywords = {**dense, "on": "text"}
    return index.search(query, depth, **captions)[0]


def _with_known_scores(
    fused: Sequence[Hit], dense_hits: Sequence[Hit], text_hits: Sequence[Hit]
) -> list[Hit]:
    """Set cosine and BM25 from both rankings; the cosine is NaN where only words found the hit."""
    cosines = {hit.id: hit.score for hit in dense_hits}
    bm25 = {hit.id: hit.score for hit in text_hits}
    return [
        replace(hit, score=cosines.get(hit.id, math.nan), bm25=bm25.get(hit.id)) for hit in fused
    ]


def _with_cosines(
    hits: Sequence[Hit], index: Searchable, query: Float[np.ndarray, " E"], on: Side
) -> list[Hit]:
    """Compute the cosines of hits that only words found; records deleted meanwhile are dropped."""
    unknown = [hit.id for hit in hits if math.isnan(hit.score)]
    if not unknown:
        return list(hits)
    records = index.get(unknown)
    return [
        replace(hit, score=cosine(query, records[hit.id], on)) if hit.id in records else hit
        for hit in hits
        if hit.id in records or not math.isnan(hit.score)
    ]
