"""Pagination: a stable order of results by score, with ties broken by id.

Milvus orders ties in a way that depends on the limit. Images with the same caption, or captions
with the same words, tie.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

from coca.core.errors import ArgumentError
from coca.search.milvus.collection_io import Row
from coca.search.records import ID, Hit

COSINE_DIGITS, BM25_DIGITS = 6, 4
"""Decimals of scores that are compared: equal vectors get cosines that differ by 1e-7."""

_FIRST_DEPTH = 32
_DEEPER = 4

_Q = TypeVar("_Q")


def check_page(k: int, offset: int, most: int, *, name: str = "k") -> None:
    """Validate a page; `name` is the name of `k` in errors.

    Raises:
        SearchError: They are not integers, `k` is below 1, `offset` is below 0, or their sum is
            above `most`.
    """
    for what, value in ((name, k), ("offset", offset)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ArgumentError(f"{what} must be a whole number, got {value!r}")
    if k < 1 or offset < 0 or k + offset > most:
        raise ArgumentError(
            f"{name}={k} with offset={offset}: {name} is at least 1, offset at least 0, "
            f"and both together at most {most:,}"
        )


def depth_of(wanted: int) -> int:
    """Compute the search depth of a page, in results: 32, 128, 512 and so on.

    The search width, and so the recall, grows with the limit. Pages of one depth use one width, so
    that no page contains a result that another page missed.
    """
    depth = _FIRST_DEPTH
    while depth < wanted:
        depth *= _DEEPER
    return depth


def check_group_by(group_by: str | None) -> None:
    """Validate the field by which hits are grouped.

    Raises:
        SearchError: It is neither None nor "album".
    """
    if group_by not in (None, "album"):
        raise ArgumentError(f'group_by is {group_by!r}; it must be "album" or None')


def group_of(hit: Hit) -> str:
    """Return the group key of a hit: its album, else its id."""
    return f"album {hit.album}" if hit.album else f"id {hit.id}"


def place_of(score: float, id: str, digits: int = COSINE_DIGITS) -> tuple[float, str]:
    """Return the sort key of a result, best first."""
    return -round(score, digits), id


def pages(
    search: Callable[[Sequence[_Q], int], list[list[Row]]],
    queries: Sequence[_Q],
    *,
    offset: int,
    k: int,
    most: int,
    digits: int = COSINE_DIGITS,
) -> list[list[Row]]:
    """Collect the page of each query from rank `offset` on.

    Args:
        search: Returns the first rows of each query, up to the limit in its second argument, each
            with its score as `distance`.
        queries: Queries for `search`.
        offset: Number of best results to skip.
        k: Maximum number of results a query.
        most: Maximum limit of `search`; ties beyond it are ordered by id as far as they are found.
        digits: Decimals of scores that are compared.
    """
    answers: list[list[Row]] = [[] for _ in queries]
    open_ones, last = list(range(len(queries))), offset + k
    limit = min(last + 1, most)
    while open_ones:
        found = search([queries[number] for number in open_ones], limit)
        torn = []
        for number, rows in zip(open_ones, found, strict=True):
            rows = sorted(rows, key=lambda row: place_of(row["distance"], row[ID], digits))
            answers[number] = rows[offset:last]
            # More ties with the last result may follow, and may precede it by id.
            if last < limit == len(rows):
                ends = [round(rows[place]["distance"], digits) for place in (last - 1, -1)]
                if ends[0] == ends[1]:
                    torn.append(number)
        if limit == most:
            break
        open_ones, limit = torn, min(depth_of(limit + 1), most)
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
