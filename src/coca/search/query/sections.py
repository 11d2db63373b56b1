"""Sections of the likely hits of a typed query: hits with the same reason, under one heading.

The reason whose hits have the highest mean score comes first, so that sections follow the ranking.
Reasons with few hits share a section: a wrong tag of one photo stays at its place in the ranking.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from coca.search.query.explanation import sort_score
from coca.search.query.likely import hits_through_likely
from coca.search.records import Hit

FEW = 5
"""Number of hits with which a reason has a section of its own."""


@dataclass(frozen=True)
class Section:
    """Likely hits of some reasons, best first."""

    reasons: list[str]
    hits: list[Hit]


def in_sections(
    find: Callable[[int], list[Hit]], last: int
) -> tuple[list[Hit], list[Section] | None]:
    """Order the likely hits of a query by section, and its other hits after them.

    Args:
        find: Returns the first hits of the ranking, as many as asked for, if there are.
        last: Number of hits that are needed.

    Returns:
        At least `last` hits, if there are, and the sections. Of a query without a line between
        likely and unlikely hits: the ranking and None.
    """
    hits = hits_through_likely(find)
    likely = [hit for hit in hits if hit.likely]
    if last > len(hits):
        hits = find(last)
    if any(hit.likely is None for hit in hits):
        return hits, None
    sections = sections_of(likely)
    ids = {hit.id for hit in likely}
    ordered = [hit for section in sections for hit in section.hits]
    return [*ordered, *(hit for hit in hits if hit.id not in ids)], sections


def sections_of(hits: Sequence[Hit]) -> list[Section]:
    """Divide likely hits into sections, each of at least `FEW` hits if there are as many."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.reason, []).append(hit)
    ordered = sorted(groups, key=lambda reason: -fmean(map(sort_score, groups[reason])))
    runs: list[list[str]] = []
    free = 0
    for reason in ordered:
        if free <= 0:
            runs.append([])
            free = FEW
        runs[-1].append(reason)
        free -= len(groups[reason])
    if free > 0 and len(runs) > 1:
        few = runs.pop()
        runs[-1] += few
    return [Section(run, [hit for hit in hits if hit.reason in run]) for run in runs]
