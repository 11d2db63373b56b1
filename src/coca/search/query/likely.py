"""The line between hits that probably show a query and those that probably do not.

Cosines of different queries are not comparable: photos of a dog have .18 with "dog", photos of a
canoe .37 with "canoe". What the query has in common with the classes that the model knows
shows how high its cosines can be:

    line = .35 m + .15,  m = max_c cos(query, v_c)

and at most 1.15 m for names of one or two words, as each breed has little of "dog". v_c are the
vectors of the model's classes (`class_vectors`). The constants are fitted to the default model, on
nouns and sentences over photos. `benchmarks/likely.py` measures
them, and where they are wrong: over drawings. A model without class vectors has no line.

Apart from that, a record is likely if its labels, given caption and texts have all words of the
query, if its caption is nearer to the query than texts in general are, or if the query is a noun
of which the model's classifier is sure. It is unlikely if the classifier sees other nouns only: of
39 such hits above the line, for 78 nouns over 600 photos, none was right.

Dimensions: K classes, E embedding.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.search.query.query_terms import content_words, singular
from coca.search.query.reasons import has_all_words, reason_of, tenths_seen
from coca.search.ranking import TypedQuery
from coca.search.records import Hit, nouns_of
from coca.search.search_options import MAX_RESULTS, SortBy

SLOPE, OFFSET, MOST = 0.35, 0.15, 1.15
NAME_WORDS = 2
"""Largest number of content words of a name."""
SURE_TENTHS = 5
"""Probability of a noun, in tenths, from which an image probably shows it."""
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


def is_known_noun(embedder: Any, text: str) -> bool:
    """Return whether a text is a noun that a classifier of the model sees."""
    noun = " ".join(content_words(text)).casefold()
    nouns = (one.words for one in getattr(embedder, "class_nouns", ()) if one.classes)
    return any(noun in words or singular(noun) in words for words in nouns)


def judged(
    hits: Iterable[Hit], typed: TypedQuery | None, line: float | None, *, is_noun: bool
) -> list[Hit]:
    """Set the reasons of hits, and whether they are likely.

    Args:
        hits: Hits.
        typed: Query by which they are ranked; None: by their cosines alone.
        line: See `line_of`; None: the cosine decides nothing.
        is_noun: See `is_known_noun`.
    """
    floor, found = typed.caption_floor(0.0) if typed else 0.0, []
    for hit in hits:
        likely, reason = None if line is None else hit.score >= line, ""
        if typed is not None:
            reason, tenths = reason_of(hit, typed.text, floor), tenths_seen(hit, typed.text)
            if likely and is_noun and not tenths and nouns_of(hit.metadata):
                likely = False
            if not likely and (
                has_all_words(hit, typed.text)
                or (hit.caption_score or -1.0) >= floor
                or tenths >= SURE_TENTHS
            ):
                likely = True
        found.append(hit.replace(likely=likely, reason=reason))
    return found


def likely_hits(find: Callable[[int], list[Hit]]) -> list[Hit]:
    """Find all likely hits, best first.

    Args:
        find: Returns the first hits, as many as asked for, if there are.
    """
    count = FIRST_HITS
    while True:
        hits = find(count)
        is_last = len(hits) < count or count == MAX_RESULTS
        if is_last or not any(hit.likely for hit in hits[count // 2 :]):
            return [hit for hit in hits if hit.likely]
        count = min(4 * count, MAX_RESULTS)


def by_time(hits: Sequence[Hit], order: SortBy) -> list[Hit]:
    """Sort hits by time, newest or oldest first; hits without a time come last."""
    sign = -1 if order == "newest" else 1
    return sorted(hits, key=lambda hit: (not hit.time, sign * hit.time))
