"""Second thoughts: the best few, put in order by how likely the model is to say the query."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from coca.core.errors import ArgumentError
from coca.search.records import Hit


@runtime_checkable
class CaptionScorer(Protocol):
    """Knows how likely words are, given a picture; a loaded CoCa does."""

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by to become logits."""
        ...

    def score(self, images: Sequence[Any], texts: Sequence[str]) -> Float[np.ndarray, "N M"]:
        """Log p(text | picture) of all pairs, in nats.

        Raises:
            DataError: A picture cannot be read.
        """
        ...


def reranked(
    hits: Sequence[Hit],
    pictures: Sequence[Any],
    texts: Mapping[str, float],
    scorer: CaptionScorer,
) -> list[Hit]:
    """The same hits, those first of which the texts are most likely to be said.

    They are ordered by the scaled cosine plus the log-probability, as a joint model of both heads
    would; `score` stays the cosine, `log_likelihood` is filled in.

    Args:
        hits: Of a search by vectors.
        pictures: Of each hit, in any form that the scorer reads.
        texts: The query's texts, each with its weight.
        scorer: The model.

    Raises:
        SearchError: There is no text to score.
        DataError: A picture cannot be read.
    """
    if not texts:
        raise ArgumentError(
            "re-ranking asks how likely words are, and the query has none: add a text"
        )
    if not hits:
        return []
    weights = np.array(list(texts.values()))
    likely = scorer.score(pictures, list(texts)) @ weights
    joint = scorer.logit_scale * np.array([hit.score for hit in hits]) + likely
    return [
        replace(hits[row], log_likelihood=float(likely[row]))
        for row in np.argsort(-joint, kind="stable")
    ]
