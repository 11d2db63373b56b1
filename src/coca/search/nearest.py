"""The nearest rows to a vector, also where a filter hides most of them."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from coca.search import records
from coca.search.collection import Collection, Row, batches
from coca.search.filters import quoted
from coca.search.records import Hit

_QUERY_ROWS = 256
_EXACT_ROWS = 2_000
"""On Lite a filter that leaves at most so many rows is answered exactly.

There the graph is walked past every row that the filter hides, so that a narrow filter loses
results: recall@10 of 0.56 at 1 % of 100,000 rows.
"""
_LISTED_IDS = 20_000
_MIN_EF, _MAX_EF = 64, 8_192


def nearest_rows(
    collection: Collection,
    queries: Float[np.ndarray, "Q E"],
    k: int,
    *,
    column: str,
    columns: Sequence[str],
    filter: str = "",
    offset: int = 0,
) -> list[list[Row]]:
    """The nearest rows to each query, nearest first, each with its `distance`.

    Args:
        collection: Where to look.
        queries: One a row, each of length 1.
        k: How many rows a query, at most.
        column: The vectors to compare with.
        columns: What to read of each row.
        filter: Milvus expression that a row must fulfil.
        offset: How many of the nearest to leave out.
    """
    if not len(queries):
        return []
    ef = max(_MIN_EF, 2 * (k + offset))
    if filter:
        if collection.connection.is_lite:
            ids = collection.ids(filter)
            kept = len(ids)
            if kept <= _EXACT_ROWS:
                rows = list(collection.get(ids, [*columns, column]))
                return _exact(queries, rows, column, k, offset)
            filter = _cheaper(filter, ids)
        else:
            kept = collection.count(filter)
        # To meet as many rows that the filter keeps as an unfiltered search meets in all.
        ef = ef * collection.count() // max(kept, 1)
    params = {"ef": max(min(ef, _MAX_EF), k + offset)}
    return [
        answer
        for batch in batches(queries, _QUERY_ROWS)
        for answer in collection.search(
            batch,
            column=column,
            columns=columns,
            k=k,
            params=params,
            filter=filter,
            offset=offset,
        )
    ]


def one_per_album(ask: Callable[[str, int], list[Hit]], wanted: int, filter: str) -> list[Hit]:
    """The best hit of each album, best first; a picture without an album stands for itself.

    Milvus can group by a column, but would take all pictures without an album for one, and 2.3
    ignores the wish. So albums that were seen are asked away until enough have been found.

    Args:
        ask: The nearest hits for a filter, and how many of them.
        wanted: How many hits, at most.
        filter: Milvus expression that a record must fulfil.
    """
    found: dict[str, Hit] = {}
    limit = 2 * wanted
    while True:
        seen = sorted({hit.album for hit in found.values() if hit.album})
        hits = ask(_without(seen, filter), limit)
        for hit in hits:
            found.setdefault(f"album {hit.album}" if hit.album else f"id {hit.id}", hit)
        if len(hits) < limit or len(found) >= wanted:
            return sorted(found.values(), key=lambda hit: -hit.score)[:wanted]


def _without(albums: Sequence[str], filter: str) -> str:
    if not albums:
        return filter
    hidden = f"{records.ALBUM} not in [{', '.join(map(quoted, albums))}]"
    return f"({filter}) and {hidden}" if filter else hidden


def _cheaper(filter: str, ids: Sequence[str]) -> str:
    """The filter, or the ids that it keeps: whichever Lite is quicker to go through.

    For lists and JSON it turns each whole record into Python objects, its vectors included.
    """
    slow = records.METADATA in filter or records.TAGS in filter
    if not slow or len(ids) > _LISTED_IDS:
        return filter
    return f"{records.ID} in [{', '.join(map(quoted, ids))}]"


def _exact(
    queries: Float[np.ndarray, "Q E"], rows: Sequence[Row], column: str, k: int, offset: int
) -> list[list[Row]]:
    """The same answer as a search, from rows that hold their vectors."""
    if not rows:
        return [[] for _ in queries]
    vectors = np.asarray([row[column] for row in rows], dtype=np.float32)
    answers = []
    for scores in queries @ vectors.T:
        nearest = np.argsort(-scores, kind="stable")[offset : offset + k]
        answers.append([rows[row] | {"distance": float(scores[row])} for row in nearest])
    return answers
