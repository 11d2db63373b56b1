"""One ranking out of several: by the places that an image has in them, or by its scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from coca.core.errors import ConfigError
from coca.search.records import Hit


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How the ranking by vectors and the ranking by words become one."""

    method: Literal["rrf", "scores"] = "rrf"
    """`rrf` adds 1 / (constant + place) (reciprocal rank fusion, Cormack et al. 2009): no score has
    to be comparable with another. `scores` adds the scores, each ranking stretched to 0 to 1."""
    words: float = 0.5
    """Weight of the ranking by words, 0 to 1; the rest is that of the vectors."""
    constant: int = 60
    """For `rrf`: the larger, the less the first few places stand out; 60 as in the paper."""

    def __post_init__(self) -> None:
        if self.method not in ("rrf", "scores"):
            raise ConfigError(f"the method to join is {self.method!r}; right are rrf and scores")
        if not (math.isfinite(self.words) and 0 <= self.words <= 1):
            raise ConfigError(f"the weight of words is {self.words}; right is 0 to 1")
        if self.constant < 1:
            raise ConfigError(f"the constant of rrf is {self.constant}; right is 1 or more")


def fuse(rankings: Sequence[Sequence[Hit]], weights: Sequence[float], fusion: Fusion) -> list[Hit]:
    """The hits of all rankings, best first; `score` is what they were joined by.

    A hit that a ranking lacks gets nothing from it. Equal sums are put in order by id, so that
    pages never overlap.

    Args:
        rankings: Each best first, with any scores.
        weights: How much each ranking counts, 0 or more.
        fusion: The method.
    """
    sums: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        if weight == 0:
            continue
        for hit, gain in zip(ranking, _gains(ranking, fusion), strict=True):
            sums[hit.id] = sums.get(hit.id, 0.0) + weight * gain
            hits.setdefault(hit.id, hit)
    order = sorted(sums, key=lambda id: (-sums[id], id))
    return [replace(hits[id], score=sums[id]) for id in order]


def _gains(ranking: Sequence[Hit], fusion: Fusion) -> list[float]:
    """What each place of a ranking is worth, 0 to 1."""
    if fusion.method == "rrf":
        return [1 / (fusion.constant + place) for place in range(1, len(ranking) + 1)]
    scores = [hit.score for hit in ranking]
    least, span = min(scores, default=0.0), max(scores, default=0.0) - min(scores, default=0.0)
    # A lone hit, or several of one score, are all the best there is.
    return [(score - least) / span if span > 0 else 1.0 for score in scores]
