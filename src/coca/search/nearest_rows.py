"""The nearest rows of a collection to a vector, also where a filter hides most of them.

A graph loses results to the rows that a filter hides. So more of it is looked at the less is kept,
and where that does not do, the rows that are left are read and compared here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.search import records
from coca.search.building import served_rows
from coca.search.collection import Collection, Row, batches
from coca.search.filters import quoted
from coca.search.index_settings import MAX_WIDTH, VectorIndex
from coca.search.rows import HIT_COLUMNS

_QUERY_ROWS = 256
_LISTED_IDS = 20_000

_FEW_ROWS = 200
"""A filter that leaves at most so many rows is always answered from them: in 5 to 60 ms."""
_MANY_ROWS = 2_000
"""More rows than these are never read for a search: on Lite they take 0.6 s."""
_MARGIN = 4
"""How many times the results that are wanted an index must meet among the rows that are kept."""
_BEHIND_FILTER = 2.0
"""How much more of an index than its share of rows a filter takes: on Milvus 2.3, with 30,000
vectors of 512 numbers, recall@10 is 0.965 to 0.98 where it keeps 8 to 50 %, and so 0.985 to 0.995.
"""
_ROUGH_ROWS = 2_000
"""So many rows without an index are searched by a rough one, which loses one result in twelve
whatever the effort: Milvus 2.3 makes it from 5,000 new rows on."""


@dataclass(frozen=True)
class Vectors:
    """One side of a collection: the vectors of its pictures, or those of its captions."""

    pictures: Collection
    """Whose rows tell what there is."""
    collection: Collection
    """Where the vectors stand: there, or for captions in one of their own."""
    column: str
    index: VectorIndex


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which of the nearest are wanted, and how widely to look for them."""

    k: int
    """Results a query, at most."""
    offset: int = 0
    """How many of the nearest to leave out."""
    filter: str = ""
    """Milvus expression that a record must fulfil."""
    effort: float = 1.0
    """How much of the index is looked at, against the usual 1."""
    params: Mapping[str, Any] | None = None
    """Search settings by Milvus's names, instead of those that the effort gives."""

    def check(self, index: VectorIndex) -> None:
        """Refuse a page that the index cannot give.

        Raises:
            SearchError: `k`, `offset` or `effort` is out of range.
        """
        most = index.most_results
        if self.k < 1 or self.offset < 0 or self.k + self.offset > most:
            raise SearchError(
                f"k={self.k} with offset={self.offset}: k is at least 1, offset at least 0, "
                f"and both together at most {most:,}"
            )
        if not self.effort > 0:
            raise SearchError(f"effort is {self.effort}; it must be above 0")


def nearest_rows(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: Page
) -> list[list[Row]]:
    """The nearest rows to each query, nearest first, each with its `distance`."""
    if not len(queries):
        return []
    collection, effort = vectors.collection, page.effort
    if page.filter:
        # To count on Lite takes as long as to read the ids.
        lite = collection.connection.is_lite
        ids = collection.ids(page.filter) if lite else []
        kept = len(ids) if lite else collection.count(page.filter, freshness=collection.freshness)
        share = 1.0
        if kept > _FEW_ROWS:
            share = kept / max(collection.count(freshness=collection.freshness), kept)
        if kept <= _FEW_ROWS or (kept <= _MANY_ROWS and _misses(vectors, page, kept, share)):
            return _exact(queries, _read(vectors, page.filter, ids), vectors.column, page)
        if lite:
            page = replace(page, filter=_cheaper(page.filter, ids))
        # To meet as many rows that the filter keeps as an unfiltered search meets in all.
        effort *= 1.0 if share == 1 else _BEHIND_FILTER / share
    params = vectors.index.search_params(page.k + page.offset, effort) | dict(page.params or {})
    return [
        answer
        for batch in batches(queries, _QUERY_ROWS)
        for answer in collection.search(
            batch,
            column=vectors.column,
            columns=HIT_COLUMNS,
            k=page.k,
            params=params,
            filter=page.filter,
            offset=page.offset,
        )
    ]


def _misses(vectors: Vectors, page: Page, kept: int, share: float) -> bool:
    """Whether the index would miss results among the rows that a filter keeps."""
    collection = vectors.collection
    if collection.connection.is_lite:
        return share * MAX_WIDTH < _MARGIN * (page.k + page.offset)
    # A server itself compares all rows where few are kept, but for those without an index.
    return kept / share - served_rows(collection.connection, collection.name) > _ROUGH_ROWS


def _read(vectors: Vectors, filter: str, ids: Sequence[str]) -> list[Row]:
    """The rows that a filter keeps, with their vectors; `ids` are theirs on Lite."""
    collection, columns = vectors.collection, [*HIT_COLUMNS, vectors.column]
    if collection.connection.is_lite:
        return list(collection.get(ids, columns))
    return collection.query(filter, columns, freshness=collection.freshness)


def _exact(
    queries: Float[np.ndarray, "Q E"], rows: Sequence[Row], column: str, page: Page
) -> list[list[Row]]:
    """The same answer as a search, from rows that hold their vectors."""
    if not rows:
        return [[] for _ in queries]
    vectors = np.asarray([row[column] for row in rows], dtype=np.float32)
    answers = []
    for scores in queries @ vectors.T:
        best = np.argsort(-scores, kind="stable")[page.offset : page.offset + page.k]
        answers.append([rows[row] | {"distance": float(scores[row])} for row in best])
    return answers


def _cheaper(filter: str, ids: Sequence[str]) -> str:
    """The filter, or the ids that it keeps: whichever Lite is quicker to go through.

    For lists and JSON it turns each whole record into Python objects, its vectors included.
    """
    slow = records.METADATA in filter or records.TAGS in filter
    if not slow or len(ids) > _LISTED_IDS:
        return filter
    return f"{records.ID} in [{', '.join(map(quoted, ids))}]"
