"""One order of all that is found, of which pages are parts: by score, and by id where scores agree.

Milvus puts rows of one score in an order that changes with how many are asked for, and images
with the same caption, or captions with the same words, have one score.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

from coca.core.errors import ArgumentError
from coca.search.milvus.collection_io import Row
from coca.search.records import ID, Hit

COSINE_DIGITS, BM25_DIGITS = 6, 4
"""Decimals in which scores agree: equal vectors get cosines that differ by 1e-7, rounding."""

_FIRST_DEPTH = 32
_DEEPER = 4

_Q = TypeVar("_Q")


def check_page(k: int, offset: int, most: int, *, name: str = "k") -> None:
    """Refuse a page that cannot be given; `name` is what errors call `k`.

    Raises:
        SearchError: They are no whole numbers, `k` is below 1, `offset` below 0, or both together
            are above `most`.
    """
    for what, value in ((name, k), ("offset", offset)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ArgumentError(f"{what} is {value!r}; right is a whole number")
    if k < 1 or offset < 0 or k + offset > most:
        raise ArgumentError(
            f"{name}={k} with offset={offset}: {name} is at least 1, offset at least 0, "
            f"and both together at most {most:,}"
        )


def depth_of(wanted: int) -> int:
    """The depth that a page is searched to, in results: 32, 128, 512 and so on.

    An index looks the more widely the more is wanted, and finds more by that. Pages of one depth
    are looked for equally widely, so that none holds what another one missed.
    """
    depth = _FIRST_DEPTH
    while depth < wanted:
        depth *= _DEEPER
    return depth


def check_group_by(group_by: str | None) -> None:
    """Refuse a field that hits cannot be grouped by.

    Raises:
        SearchError: It is neither None nor "album".
    """
    if group_by not in (None, "album"):
        raise ArgumentError(f'group_by is {group_by!r}; it must be "album" or None')


def group_of(hit: Hit) -> str:
    """Name what a result stands for where each album has one: its album, else itself."""
    return f"album {hit.album}" if hit.album else f"id {hit.id}"


def place_of(score: float, id: str, digits: int = COSINE_DIGITS) -> tuple[float, str]:
    """What results are sorted by, the best first."""
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
    """The rows of each query from place `offset` on.

    Args:
        search: Gives the first rows of each query, as many as its second argument says, each with
            its score as `distance`.
        queries: What it takes.
        offset: How many of the best to leave out.
        k: How many results a query, at most.
        most: The most that may be asked for; rows of one score that are more are told apart by id
            as far as they are found.
        digits: Decimals in which scores agree.
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
            # More of the last one's score may follow, and may come before it by id.
            if last < limit == len(rows):
                ends = [round(rows[place]["distance"], digits) for place in (last - 1, -1)]
                if ends[0] == ends[1]:
                    torn.append(number)
        if limit == most:
            break
        open_ones, limit = torn, min(depth_of(limit + 1), most)
    return answers


def check_text(text: str) -> None:
    """Refuse what is no text to search for.

    Raises:
        SearchError: It is of another kind, or empty.
    """
    if not isinstance(text, str):
        raise ArgumentError(
            f"the text to search for is {text!r}, and no words; several texts are several terms"
        )
    if not text.strip():
        raise ArgumentError("the text to search for is empty")
