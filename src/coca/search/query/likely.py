"""The line between hits that probably show a query and those that probably do not.

Cosines of different queries are not comparable: photos of a dog have .18 with "dog", photos of a
canoe .37 with "canoe". What the query has in common with the classes that the model knows
shows how high its cosines can be:

    line = .35 m + .15,  m = max_c cos(query, v_c)

and at most 1.15 m for names of one or two words, as each breed has little of "dog". v_c are the
vectors of the model's classes (`class_vectors`). The constants are fitted to the default model, on
nouns and sentences over photos. `benchmarks/likely.py` measures
them, and where they are wrong: over drawings. A model without class vectors has no line.

Apart from the image, a record is likely if its labels, given caption and texts have all words of
the query, or if its caption is nearer to the query than texts in general are.

Dimensions: K classes, E embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.search.query.query_terms import content_words
from coca.search.query.reasons import has_all_words, reason_of
from coca.search.ranking import TypedQuery
from coca.search.records import Hit
from coca.search.search_options import MAX_RESULTS, SortBy

SLOPE, OFFSET, MOST = 0.35, 0.15, 1.15
NAME_WORDS = 2
"""Largest number of content words of a name."""
FIRST_HITS = 1_000
"""Number of hits among which likely ones are looked for first."""
SORTED_HITS = 200
"""Number of first hits that are sorted by time without a line."""


def line_of(embedder: Any, query: Float[np.ndarray, " E"], text: str) -> float | None:
    """Return the cosine from which on an image probably shows a query; None without a line.

    Args:
        embedder: Model of the query.
        query: Query vector of length 1, of texts.
        text: Texts of the query that are wanted.
    """
    vectors = getattr(embedder, "class_vectors", None)
    if vectors is None or vectors.shape[1] != len(query):
        return None
    greatest = float((vectors @ query).max())
    line = SLOPE * greatest + OFFSET
    return min(line, MOST * greatest) if len(content_words(text)) <= NAME_WORDS else line


def judged(hit: Hit, typed: TypedQuery | None, line: float | None) -> Hit:
    """Set the reason of a hit, and whether it is likely.

    Args:
        hit: A hit.
        typed: Query by which it is ranked; None: by its cosine alone.
        line: See `line_of`; None: the cosine decides nothing.
    """
    likely = None if line is None else hit.score >= line
    if typed is None:
        return replace(hit, likely=likely)
    floor = typed.caption_floor(0.0)
    if not likely and (has_all_words(hit, typed.text) or (hit.caption_score or -1.0) >= floor):
        likely = True
    return replace(hit, likely=likely, reason=reason_of(hit, typed.text, floor))


def likely_hits(find: Callable[[int], list[Hit]]) -> list[Hit]:
    """Find all likely hits, best first.

    Args:
        find: Returns the first hits, as many as asked for, if there are.
    """
    return [hit for hit in hits_through_likely(find) if hit.likely]


def hits_through_likely(find: Callable[[int], list[Hit]]) -> list[Hit]:
    """Find the first hits, up to the last likely hit or further."""
    count = FIRST_HITS
    while True:
        hits = find(count)
        is_last = len(hits) < count or count == MAX_RESULTS
        if is_last or not any(hit.likely for hit in hits[count // 2 :]):
            return hits
        count = min(4 * count, MAX_RESULTS)


def by_time(hits: Sequence[Hit], order: SortBy) -> list[Hit]:
    """Sort hits by time, newest or oldest first; hits without a time come last."""
    sign = -1 if order == "newest" else 1
    return sorted(hits, key=lambda hit: (not hit.time, sign * hit.time))
