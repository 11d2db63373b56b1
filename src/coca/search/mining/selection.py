"""Subsets of a collection to learn from: by a query, by examples, by doubt, or spread out.

Dimensions: N images, M examples, K classes, E embedding.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError, ConfigError
from coca.core.progress import ProgressMaker, silent
from coca.search.mining.diversity import drop_near_duplicates, k_center


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many images to choose, and which to leave out."""

    count: int
    """How many; fewer if fewer are left."""
    min_score: float | None = None
    """Score below which none is chosen."""
    diverse: bool = False
    """Choose those that leave none far away (k-center), among the best `pool * count`."""
    pool: int = 4
    """With `diverse` and scores: candidates for each image that is chosen."""
    max_likeness: float | None = None
    """Largest cosine of two that are chosen, which keeps near-duplicates out; 0 to 1."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.pool < 1:
            raise ConfigError(
                f"count is {self.count} and pool {self.pool}; each must be at least 1"
            )
        if self.max_likeness is not None and not 0 < self.max_likeness <= 1:
            raise ConfigError(f"max_likeness is {self.max_likeness}; right is above 0 to 1")


def similarity(
    vectors: Float32[np.ndarray, "N E"], examples: Float[np.ndarray, "M E"]
) -> Float32[np.ndarray, " N"]:
    """How like each image is to the example that is nearest to it: their cosine."""
    return (vectors @ np.asarray(examples, np.float32).T).max(axis=1)


def entropy(
    vectors: Float32[np.ndarray, "N E"],
    classes: Float[np.ndarray, "K E"],
    *,
    logit_scale: float,
) -> Float32[np.ndarray, " N"]:
    """How unsure a zero-shot classification of each image is: its entropy in nats.

    Args:
        vectors: Of the images, each of length 1.
        classes: Of the classes, each of length 1.
        logit_scale: What the model multiplies cosines by.
    """
    logits = logit_scale * (vectors @ np.asarray(classes, np.float32).T)
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    total = odds.sum(axis=1)
    return np.log(total) - (odds * logits).sum(axis=1) / total


def choose(
    vectors: Float32[np.ndarray, "N E"],
    choice: Choice,
    *,
    scores: Float[np.ndarray, " N"] | None = None,
    away_from: Float32[np.ndarray, "M E"] | None = None,
    progress: ProgressMaker = silent,
) -> list[int]:
    """The rows of the images to learn from, the best first.

    Args:
        vectors: Of all images, each of length 1.
        choice: How many, and which not.
        scores: How much each is wanted; None: all alike, in the order given.
        away_from: Images that none may be more like than `max_likeness`, such as a test set.
        progress: Shows how far it is.

    Raises:
        SearchError: `away_from` is given without `max_likeness`.
    """
    if away_from is not None and choice.max_likeness is None:
        raise ArgumentError("how like the images to stay away from is too like? Set max_likeness")
    order = np.arange(len(vectors)) if scores is None else np.argsort(-scores, kind="stable")
    if scores is not None and choice.min_score is not None:
        order = order[scores[order] >= choice.min_score]
    wanted: int | None = choice.count
    if choice.diverse:
        wanted = None if scores is None else choice.count * choice.pool
    if choice.max_likeness is None:
        rows = order[:wanted].tolist()
    else:
        rows = drop_near_duplicates(
            vectors, order.tolist(), most=choice.max_likeness, count=wanted, away_from=away_from
        )
    if not choice.diverse:
        return rows
    return [rows[place] for place in k_center(vectors[rows], choice.count, progress=progress)]
