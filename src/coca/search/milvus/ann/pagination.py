"""Pagination: a stable order of results by score, with ties broken by id.

Milvus orders ties in a way that depends on the limit. Images with the same caption, or captions
with the same words, tie.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from coca.core.errors import ArgumentError
from coca.search.milvus.collection_io import Row
from coca.search.records import ID, Hit

COSINE_DIGITS, BM25_DIGITS = 6, 4
"""Decimals of scores that are compared: equal vectors get cosines that differ by 1e-7."""

_FIRST_DEPTH = 32
_DEEPER = 4

_Q = TypeVar("_Q")


def depth_of(wanted: int) -> int:
    """Compute the search depth of a page, in results: 32, 128, 512 and so on.

    The search width, and so the recall, grows with the limit. Pages of one depth use one width, so
    that no page contains a result that another page missed.
    """
    depth = _FIRST_DEPTH
    while depth < wanted:
        depth *= _DEEPER
    return depth


def group_of(hit: Hit) -> str:
    """Return the group key of a hit: its album, else its id."""
    return f"album {hit.album}" if hit.album else f"id {hit.id}"


def sort_key(score: float, id: str, digits: int = COSINE_DIGITS) -> tuple[float, str]:
    """Return the sort key of a result, best first."""
    return -round(score, digits), id


def pages(
    search: Callable[[Sequence[_Q], int], list[list[Row]]],
    queries: Sequence[_Q],
    *,
    offset: int,
    k: int,
    max_limit: int,
    digits: int = COSINE_DIGITS,
) -> list[list[Row]]:
    """Collect the page of each query from rank `offset` on.

    Args:
        search: Returns the first rows of each query, up to the limit in its second argument, each
            with its score as `distance`.
        queries: Queries for `search`.
        offset: Number of best results to skip.
        k: Maximum number of results a query.
        max_limit: Maximum limit of `search`; ties beyond it are ordered by id as far as found.
        digits: Decimals of scores that are compared.
    """
    answers: list[list[Row]] = [[] for _ in queries]
    open_ones, last = list(range(len(queries))), offset + k
    limit = min(last + 1, max_limit)
    while open_ones:
        found = search([queries[number] for number in open_ones], limit)
        torn = []
        for number, rows in zip(open_ones, found, strict=True):
            rows = sorted(rows, key=lambda row: sort_key(row["distance"], row[ID], digits))
            answers[number] = rows[offset:last]
            # More ties with the last result may follow, and may precede it by id.
            if last < limit == len(rows):
                ends = [round(rows[row]["distance"], digits) for row in (last - 1, -1)]
                if ends[0] == ends[1]:
                    torn.append(number)
        if limit == max_limit:
            break
        open_ones, limit = torn, min(depth_of(limit + 1), max_limit)
    return answers


def check_text(text: str) -> None:
    """Validate a query text.

    Raises:
        SearchError: It is not a string, or empty.
    """
    if not isinstance(text, str):
        raise ArgumentError(
            f"the text to search for is {text!r}, and no words; several texts are several terms"
        )
    if not text.strip():
        raise ArgumentError("the text to search for is empty")
