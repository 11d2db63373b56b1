"""Fusion of rankings: sums of min-max-normalized scores, or reciprocal rank fusion (RRF)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge

from coca.core.config.base import Config, Fraction
from coca.search.records import Hit

CaptionChoice: TypeAlias = Literal["all", "given"]
"""Captions that count: all, or only those that people gave."""


@dataclass(frozen=True, kw_only=True)
class Fusion(Config):
    """Configuration of the fusion of rankings by images, by vectors of captions, and by BM25."""

    method: Literal["rrf", "scores"] = "scores"
    """`scores` adds scores that are min-max-normalized to 0 to 1 in each ranking. `rrf` adds
    1 / (constant + rank) (reciprocal rank fusion, Cormack et al. 2009): it knows no distances, so a
    caption that equals the query can rank below images that are mediocre in all rankings."""
    text_weight: Fraction = 0.75
    """Weight of the captions; the images have the rest."""
    vector_share: Fraction = 0.5
    """Fraction of `text_weight` that the ranking by vectors of captions has, which finds synonyms;
    BM25, which finds names and rare words, has the rest. 0: BM25 alone."""
    uncaptioned: Fraction = 0.6
    """Factor of the score by image that replaces the scores by caption where no caption counts. At
    0 an image without a caption is below all that have one; at 1 it is above most of them."""
    captions: CaptionChoice = "all"
    """Captions that count: all, or only those that people gave. A caption that the model wrote has
    little that the image's vector lacks."""
    constant: Annotated[int, Ge(1)] = 60
    """For `rrf`: the larger, the smaller the lead of the first ranks; 60 as in the paper."""

    def counts(self, hit: Hit) -> bool:
        """Return whether a hit has a caption that counts."""
        return bool(hit.caption) and (self.captions == "all" or hit.caption_source == "given")


def fuse(
    rankings: Sequence[Sequence[Hit]],
    weights: Sequence[float],
    fusion: Fusion,
    *,
    has_all: Callable[[Hit], bool] = lambda hit: True,
    coverage: Callable[[Hit], float] = lambda hit: 1.0,
) -> list[Hit]:
    """Fuse rankings into one, best first; sets `fused_score`.

    A hit keeps the score of the first ranking that has it, and gets 0 from one that lacks it. Ties
    are broken by id, so that pages never overlap.

    Args:
        rankings: Rankings, each best first, with any scores.
        weights: Weight of each ranking, 0 or more.
        fusion: Fusion method.
        has_all: Whether all rankings apply to a hit. Else only the first does: the others get
            `fusion.uncaptioned` times its score, and do not find the hit.
        coverage: Fraction of the query's words that a hit has. Normalized scores of the last
            ranking are multiplied by it: the best of them need not be a good one, such as "police
            car" for "red car" where no caption has both words.
    """
    sums: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    others = fusion.uncaptioned * sum(weights[1:])
    last = len(rankings) - 1 if fusion.method == "scores" else None
    for position, (ranking, weight) in enumerate(zip(rankings, weights, strict=True)):
        for hit, gain in zip(ranking, _gains(ranking, fusion), strict=True):
            whole = has_all(hit)
            factor = weight if whole else weight + others
            if position == last:
                factor *= coverage(hit)
            if factor and (whole or position == 0):
                sums[hit.id] = sums.get(hit.id, 0.0) + factor * gain
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
