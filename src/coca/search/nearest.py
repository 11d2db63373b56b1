"""The nearest records to a vector, also where a filter hides most of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.core.errors import SearchError
from coca.search import records
from coca.search.collection import Collection, Row, batches
from coca.search.filters import quoted
from coca.search.index_settings import VectorIndex
from coca.search.records import Hit
from coca.search.rows import HIT_COLUMNS, belongs, to_hit
from coca.search.schema import WORDS

_QUERY_ROWS = 256
_EXACT_ROWS = 2_000
"""A filter that leaves at most so many rows is answered exactly.

A graph loses results to the rows that a filter hides: on Lite recall@10 is 0.56 at 1 % of 100,000
rows with the usual effort; on Milvus 2.3 it is 0.92 at 10 % of 6,000 whatever the effort.
"""

_LISTED_IDS = 20_000


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


def nearest(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: Page, *, captions: bool
) -> list[list[Hit]]:
    """The nearest records to each query, nearest first.

    Args:
        vectors: Where to look.
        queries: One a row, each of length 1.
        page: Which of the nearest.
        captions: Leave out records that have no caption's vector, whose stand-ins may come up.
    """
    if vectors.collection is not vectors.pictures:
        answers = _rows_of_pictures(vectors, queries, page)
        return [[to_hit(row, row["distance"]) for row in answer] for answer in answers]
    answers = _nearest_rows(vectors, queries, page)
    if captions and any(not row[records.HAS_TEXT] for answer in answers for row in answer):
        # Only now, as most collections have no stand-ins, and a filter takes time.
        spoken = f"{records.HAS_TEXT} == true"
        answers = _nearest_rows(vectors, queries, replace(page, filter=_both(page.filter, spoken)))
    return [[to_hit(row, row["distance"]) for row in answer] for answer in answers]


def nearest_of_each_album(
    vectors: Vectors, query: Float[np.ndarray, " E"], page: Page, *, captions: bool
) -> list[Hit]:
    """The best hit of each album, best first; a picture without an album stands for itself.

    Milvus can group by a column, but would take all pictures without an album for one, and 2.3
    ignores the wish. So albums that were seen are asked away until enough have been found.
    """
    wanted = page.k + page.offset
    limit = min(2 * wanted, vectors.index.most_results)
    found: dict[str, Hit] = {}
    while True:
        hidden = sorted({hit.album for hit in found.values() if hit.album})
        rest = replace(page, k=limit, offset=0, filter=_without(hidden, page.filter))
        hits = nearest(vectors, query[np.newaxis], rest, captions=captions)[0]
        for hit in hits:
            found.setdefault(f"album {hit.album}" if hit.album else f"id {hit.id}", hit)
        if len(hits) < limit or len(found) >= wanted:
            best = sorted(found.values(), key=lambda hit: -hit.score)
            return best[page.offset : wanted]


def words_of(collection: Collection, text: str, page: Page) -> list[Hit]:
    """The records whose captions hold the words of a text, best first; the score is BM25."""
    rows = collection.search(
        [text],
        column=WORDS,
        columns=HIT_COLUMNS,
        k=page.k,
        params={},
        metric="BM25",
        filter=page.filter,
        offset=page.offset,
    )[0]
    # Lite tells the score with a minus in front.
    return [to_hit(row, abs(row["distance"])) for row in rows]


def _nearest_rows(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: Page
) -> list[list[Row]]:
    if not len(queries):
        return []
    collection, effort = vectors.collection, page.effort
    if page.filter:
        lite = collection.connection.is_lite
        # To count on Lite takes as long as to read the ids.
        ids = collection.ids(page.filter) if lite else []
        kept = len(ids) if lite else collection.count(page.filter, freshness=collection.freshness)
        if kept <= _EXACT_ROWS:
            ids = ids if lite else collection.ids(page.filter)
            rows = list(collection.get(ids, [*HIT_COLUMNS, vectors.column]))
            return _exact(queries, rows, vectors.column, page)
        if lite:
            page = replace(page, filter=_cheaper(page.filter, ids))
        # To meet as many rows that the filter keeps as an unfiltered search meets in all.
        effort *= max(collection.count(freshness=collection.freshness) / max(kept, 1), 1.0)
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


def _rows_of_pictures(
    vectors: Vectors, queries: Float[np.ndarray, "Q E"], page: Page
) -> list[list[Row]]:
    """The pictures whose captions are nearest, where captions have a collection of their own.

    Captions that a killed writer left without their picture are passed over.
    """
    pictures, wanted = vectors.pictures, page.k + page.offset
    limit = wanted
    while True:
        found = _nearest_rows(vectors, queries, replace(page, k=limit, offset=0))
        ids = dict.fromkeys(row[records.ID] for rows in found for row in rows)
        told = pictures.get(ids, HIT_COLUMNS, freshness=pictures.freshness)
        known = {row[records.ID]: row for row in told}
        answers = [
            [
                known[row[records.ID]] | {"distance": row["distance"]}
                for row in rows
                if belongs(row, known.get(row[records.ID]))
            ]
            for rows in found
        ]
        short = any(
            len(answer) < wanted and len(rows) == limit
            for answer, rows in zip(answers, found, strict=True)
        )
        if not short or limit == vectors.index.most_results:
            return [answer[page.offset : wanted] for answer in answers]
        limit = min(2 * limit, vectors.index.most_results)


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


def _without(albums: Sequence[str], filter: str) -> str:
    if not albums:
        return filter
    return _both(filter, f"{records.ALBUM} not in [{', '.join(map(quoted, albums))}]")


def _cheaper(filter: str, ids: Sequence[str]) -> str:
    """The filter, or the ids that it keeps: whichever Lite is quicker to go through.

    For lists and JSON it turns each whole record into Python objects, its vectors included.
    """
    slow = records.METADATA in filter or records.TAGS in filter
    if not slow or len(ids) > _LISTED_IDS:
        return filter
    return f"{records.ID} in [{', '.join(map(quoted, ids))}]"


def _both(filter: str, other: str) -> str:
    return f"({filter}) and {other}" if filter else other
