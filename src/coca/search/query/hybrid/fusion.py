"""Rank fusion: reciprocal rank fusion (RRF) or min-max-normalized score fusion."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge

from coca.core.config.base import Config, Fraction
from coca.search.records import Hit

CaptionChoice: TypeAlias = Literal["all", "given"]
"""Captions of a full-text ranking: all, or only those that people gave."""


@dataclass(frozen=True, kw_only=True)
class Fusion(Config):
    """Configuration of the fusion of the dense and the full-text ranking."""

    method: Literal["rrf", "scores"] = "rrf"
    """`rrf` adds 1 / (constant + rank) (reciprocal rank fusion, Cormack et al. 2009), so scores
    need not be comparable. `scores` adds scores that are min-max-normalized to 0 to 1 in each
    ranking."""
    text_weight: Fraction = 0.5
    """Weight of the full-text ranking; the dense ranking has the rest."""
    captions: CaptionChoice = "all"
    """Captions of the full-text ranking: all, or only those that people gave. A caption that the
    model wrote has little that the image's vector lacks."""
    constant: Annotated[int, Ge(1)] = 60
    """For `rrf`: the larger, the smaller the lead of the first ranks; 60 as in the paper."""


def fuse(rankings: Sequence[Sequence[Hit]], weights: Sequence[float], fusion: Fusion) -> list[Hit]:
    """Fuse rankings into one, best first; sets `fused_score`.

    A hit keeps the score of the first ranking that has it, and gets 0 from one that lacks it. Ties
    are broken by id, so that pages never overlap.

    Args:
        rankings: Rankings, each best first, with any scores.
        weights: Weight of each ranking, 0 or more.
        fusion: Fusion method.
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
    return [replace(hits[id], fused_score=sums[id]) for id in order]


def _gains(ranking: Sequence[Hit], fusion: Fusion) -> list[float]:
    """Compute the contribution of each rank, 0 to 1."""
    if fusion.method == "rrf":
        return [1 / (fusion.constant + rank) for rank in range(1, len(ranking) + 1)]
    scores = [hit.score for hit in ranking]
    lowest, span = min(scores, default=0.0), max(scores, default=0.0) - min(scores, default=0.0)
    # A single hit, or several of one score, all get the maximum.
    return [(score - lowest) / span if span > 0 else 1.0 for score in scores]
