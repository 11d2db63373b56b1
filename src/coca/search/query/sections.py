"""Sections of the likely hits of a typed query: hits with the same reason, under one heading.

Sections follow the ranking: reasons whose hits it mixes share a section and keep their order in it,
as do reasons with few hits. So captions that have some words of a sentence do not come before
better photos, and a wrong tag of one photo stays at its place. Over 500 photos of Flickr8k, half of
them with a caption, recall@10 of another caption is .767 with sections and without; with a section
for each reason it is .692.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from coca.search.records import Hit

FIRST_HITS = 1_000
"""Number of first hits whose likely ones are divided. More would make a common word slow: a hit is
read from the file and judged in 30 microseconds."""
FEW = 5
"""Number of hits with which a reason has a section of its own."""
APART = 0.9
"""Share of the pairs of hits of two reasons that the ranking has in the order of their sections."""


@dataclass(frozen=True)
class Section:
    """Likely hits of some reasons, best first."""

    reasons: list[str]
    hits: list[Hit]


@dataclass(frozen=True)
class Divided:
    """Hits of a query: the likely ones by section, then the others."""

    hits: list[Hit]
    sections: list[Section] | None
    """None for a query without a line between likely and unlikely hits; its hits are as ranked."""
    is_complete: bool
    """Whether hardly any likely hit follows the sections."""


def in_sections(find: Callable[[int], list[Hit]], last: int) -> Divided:
    """Divide the likely ones of the first hits of a query into sections.

    Args:
        find: Returns the first hits of the ranking, as many as asked for, if there are.
        last: Number of hits that are needed.

    Returns:
        At least `last` hits, if there are.
    """
    hits = find(max(last, FIRST_HITS))
    if any(hit.likely is None for hit in hits):
        return Divided(hits, None, is_complete=False)
    first = hits[:FIRST_HITS]
    sections = sections_of([hit for hit in first if hit.likely])
    ordered = [hit for section in sections for hit in section.hits]
    others = [*(hit for hit in first if not hit.likely), *hits[FIRST_HITS:]]
    is_complete = not any(hit.likely for hit in first[FIRST_HITS // 2 :])
    return Divided([*ordered, *others], sections, is_complete or len(hits) < FIRST_HITS)


def sections_of(hits: Sequence[Hit]) -> list[Section]:
    """Divide likely hits, best first, into sections of at least `FEW` hits if there are as many."""
    places: dict[str, list[int]] = {}
    for place, hit in enumerate(hits):
        places.setdefault(hit.reason, []).append(place)
    runs: list[tuple[list[str], list[int]]] = []
    for reason in sorted(places, key=lambda reason: fmean(places[reason])):
        if runs and (len(runs[-1][1]) < FEW or not _precede(runs[-1][1], places[reason])):
            _join(runs[-1], ([reason], places[reason]))
        else:
            runs.append(([reason], places[reason]))
    if len(runs) > 1 and len(runs[-1][1]) < FEW:
        few = runs.pop()
        _join(runs[-1], few)
    return [Section(reasons, [hits[place] for place in own]) for reasons, own in runs]


def _precede(first: Sequence[int], second: Sequence[int]) -> bool:
    """Return whether the ranking has nearly all of some hits before others, by their places."""
    ordered = sum(len(second) - bisect(second, place) for place in first)
    return ordered >= APART * len(first) * len(second)


def _join(run: tuple[list[str], list[int]], more: tuple[list[str], list[int]]) -> None:
    run[0].extend(more[0])
    run[1][:] = sorted(run[1] + more[1])
