"""The nearest rows of a collection to a vector, also where a filter hides most of them.

A graph loses results to the rows that a filter hides. So more of it is looked at the less is kept,
and where that does not do, the rows that are left are read and compared here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError
from coca.search import records
from coca.search.filters import check_filter, with_ids
from coca.search.index_params.params import MAX_WIDTH, VectorIndex
from coca.search.index_params.types import Hnsw
from coca.search.milvus.collection_io import CollectionIO, Row, batches
from coca.search.milvus.index_build import served_rows
from coca.search.milvus.pagination import check_page, depth_of
from coca.search.milvus.row_codec import HIT_COLUMNS

_QUERY_ROWS = 256
_ANSWER_BYTES = 64 << 20
"""Where results come with their vectors, queries are sent in batches whose answers are below it."""
_LISTED_IDS = 20_000

_FEW_ROWS = 200
"""A filter that leaves at most so many rows is answered from them: in 5 to 60 ms."""
_MANY_ROWS = 2_000
"""More rows than these are never read for a search: on Lite they take 0.6 s."""
_MARGIN = 4
"""How many times the results that are wanted a graph must meet among the rows that are kept."""
_BEHIND_FILTER = 2.0
"""How much more of an index than its share of rows a filter takes: on Milvus 2.3, with 30,000
vectors of 512 numbers, recall@10 is 0.965 to 0.98 where it keeps 8 to 50 %, and so 0.985 to 0.995.
"""
_ROUGH_ROWS = 2_000
"""So many rows without an index are searched by a rough one, which loses one result in twelve
whatever the effort: Milvus 2.3 makes it from 5,000 new rows on."""
_WIDTHS = ("ef", "itopk_size", "reorder_k", "search_list")
"""Settings of a search that are numbers of candidates, of which its results are a part."""
_READ_AS_OBJECTS = (records.METADATA, records.TAGS, records.ORIGIN, records.CAPTION_SOURCE)
"""Fields of filters that Lite reads slowly: lists and JSON."""
_UTMOST = 1e6
"""An effort that looks at all heaps of an index."""


@dataclass(frozen=True)
class Vectors:
    """One side of a collection: the vectors of its images, or those of its captions."""

    pictures: CollectionIO
    """Whose rows tell what there is."""
    collection: CollectionIO
    """Where the vectors stand: there, or for captions in one of their own."""
    column: str
    index: VectorIndex


@dataclass(frozen=True, kw_only=True)
class Look:
    """How many of the nearest are wanted, and how widely to look for them."""

    limit: int
    """Results a query, at most."""
    filter: str = ""
    """Milvus expression that a record must fulfil."""
    effort: float = 1.0
    """How much of the index is looked at, against the usual 1."""
    params: Mapping[str, Any] | None = None
    """Search settings by Milvus's names, instead of those that the effort gives."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which of the nearest are wanted; the rest as in `Look`."""

    k: int
    """Results a query, at most."""
    offset: int = 0
    """How many of the nearest to leave out."""
    filter: str = ""
    effort: float = 1.0
    params: Mapping[str, Any] | None = None

    def check(self, index: VectorIndex) -> None:
        """Refuse a page that the index cannot give.

        Raises:
            SearchError: `k`, `offset` or `effort` is out of range.
        """
        check_page(self.k, self.offset, index.most_results)
        check_filter(self.filter)
        if not self.effort > 0:
            raise ArgumentError(f"effort is {self.effort}; it must be above 0")

    def look(self, limit: int) -> Look:
        """For the first `limit` of them all."""
        return Look(limit=limit, filter=self.filter, effort=self.effort, params=self.params)


def nearest_rows(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], look: Look
) -> list[list[Row]]:
    """The nearest rows to each query, nearest first, each with its `distance`."""
    if not len(queries):
        return []
    if not look.filter:
        return _searched(vectors, queries, look, effort=look.effort)
    if vectors.collection.connection.is_lite:
        return _filtered_on_lite(vectors, queries, look)
    return _filtered_on_server(vectors, queries, look)


def _filtered_on_server(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], look: Look
) -> list[list[Row]]:
    """Counts what the filter keeps, to know how widely to look."""
    collection = vectors.collection
    kept, share = collection.count(look.filter, freshness=collection.freshness), 1.0
    if kept > _FEW_ROWS:
        share = kept / max(collection.count(freshness=collection.freshness), kept)
    # A server itself compares all rows where few are kept, but for those without an index.
    if kept <= _FEW_ROWS or (
        kept <= _MANY_ROWS
        and kept / share - served_rows(collection.connection, collection.name) > _ROUGH_ROWS
    ):
        columns = [*HIT_COLUMNS, vectors.column]
        rows = collection.query(look.filter, columns, freshness=collection.freshness)
        return _exact(queries, rows, vectors.column, look)
    # To meet as many rows that the filter keeps as an unfiltered search meets in all.
    effort = look.effort * (1.0 if share == 1 else _BEHIND_FILTER / share)
    return _searched(vectors, queries, look, effort=effort)


def _filtered_on_lite(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], look: Look
) -> list[list[Row]]:
    """Looks widely, and at the rows themselves if that has met too few of those that are kept.

    To count or read what a filter keeps takes Lite longer than such a search: among 100,000 rows
    0.2 s, and 55 us for each that is kept, against 0.15 s.
    """
    collection, index = vectors.collection, vectors.index
    if any(name in look.filter for name in _READ_AS_OBJECTS):
        # For lists and JSON it turns each whole record into Python objects, its vectors included;
        # so only once.
        ids = collection.ids(look.filter)
        if len(ids) <= _FEW_ROWS:
            columns = [*HIT_COLUMNS, vectors.column]
            return _exact(queries, list(collection.get(ids, columns)), vectors.column, look)
        if len(ids) <= _LISTED_IDS:
            look = replace(look, filter=with_ids(ids))
    if "ef" not in index.search_params(look.limit, 1.0):
        return _searched(vectors, queries, look, effort=_UTMOST)
    # That it finds more than is wanted shows that it did not find these by luck. A compressed graph
    # has other scores than the rows: there pages of one depth are answered in one way.
    wanted = look.limit if index.type == Hnsw.type else depth_of(look.limit)
    wider = replace(look, limit=min(_MARGIN * wanted, index.most_results))
    answers = _searched(vectors, queries, wider, effort=_UTMOST, ef=MAX_WIDTH)
    if any(len(answer) < wider.limit for answer in answers):
        columns = [*HIT_COLUMNS, vectors.column]
        read = collection.query(look.filter, columns, limit=_MANY_ROWS + 1)
        if len(read) <= _MANY_ROWS:
            return _exact(queries, read, vectors.column, look)
        # What is kept lies far from what is nearest: the whole graph.
        answers = _searched(vectors, queries, wider, effort=_UTMOST, ef=collection.count())
    return [answer[: look.limit] for answer in answers]


def _searched(
    vectors: Vectors,
    queries: Float[np.ndarray, "Q E"],
    look: Look,
    *,
    effort: float,
    ef: int | None = None,
) -> list[list[Row]]:
    """What the index finds; `ef` in place of what the effort would give.

    Scores of compressed copies are not cosines, and order the results differently. So the stored
    vectors of all results to the depth of the page are compared with the query: then pages of one
    depth agree, and a score does not depend on the index or the filter.
    """
    depth = min(depth_of(look.limit), vectors.index.most_results)
    exact = vectors.index.exact_scores
    params = vectors.index.search_params(depth, effort)
    limit = look.limit if exact else depth
    if ef is not None:
        params["ef"] = max(ef, limit)
    params |= _wide_enough(look.params or {}, limit)
    answers = [
        answer
        for batch in batches(queries, _QUERY_ROWS if exact else _rescored(depth, queries.shape[1]))
        for answer in vectors.collection.search(
            batch,
            column=vectors.column,
            columns=HIT_COLUMNS if exact else [*HIT_COLUMNS, vectors.column],
            k=limit,
            params=params,
            filter=look.filter,
        )
    ]
    if exact:
        return answers
    return [
        _exact(query[np.newaxis], answer, vectors.column, look)[0]
        for query, answer in zip(queries, answers, strict=True)
    ]


def _rescored(depth: int, embed_dim: int) -> int:
    return min(max(_ANSWER_BYTES // (4 * depth * embed_dim), 1), _QUERY_ROWS)


def _wide_enough(params: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Settings as they were given, but no narrower than what is asked for, which Milvus refuses.

    For pages to come out in one order a search asks for a few results more than it gives.
    """
    return {
        name: max(value, limit) if name in _WIDTHS and isinstance(value, int) else value
        for name, value in params.items()
    }


def _exact(
    queries: Float[np.ndarray, "Q E"], rows: Sequence[Row], column: str, look: Look
) -> list[list[Row]]:
    """The same answer as a search, from rows that hold their vectors."""
    if not rows:
        return [[] for _ in queries]
    vectors = np.asarray([row[column] for row in rows], dtype=np.float32)
    answers = []
    for scores in queries @ vectors.T:
        best = np.argsort(-scores, kind="stable")[: look.limit]
        answers.append([rows[row] | {"distance": float(scores[row])} for row in best])
    return answers
