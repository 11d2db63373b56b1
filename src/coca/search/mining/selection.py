"""Data selection for training: by query, by examples, by entropy, or by k-center.

Dimensions: N images, M examples, K classes, E embedding.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval
from jaxtyping import Float, Float32

from coca.core.config.base import Config
from coca.core.errors import ArgumentError
from coca.core.progress import ProgressMaker, silent
from coca.search.mining.diversity import drop_near_duplicates, k_center


@dataclass(frozen=True, kw_only=True)
class Choice(Config):
    """Configuration of a selection: count, thresholds and diversity."""

    count: Annotated[int, Ge(1)]
    """Maximum number of images."""
    min_score: float | None = None
    """Minimum score of a selected image."""
    diverse: bool = False
    """Select by greedy k-center among the best `pool * count`."""
    pool: Annotated[int, Ge(1)] = 4
    """Candidates for each selected image, with `diverse` and scores."""
    max_similarity: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Maximum cosine of two selected images, which excludes near-duplicates."""


def similarity(
    vectors: Float32[np.ndarray, "N E"], examples: Float[np.ndarray, "M E"]
) -> Float32[np.ndarray, " N"]:
    """Compute the cosine of each image with its nearest example."""
    return (vectors @ np.asarray(examples, np.float32).T).max(axis=1)


def entropy(
    vectors: Float32[np.ndarray, "N E"],
    classes: Float[np.ndarray, "K E"],
    *,
    logit_scale: float,
) -> Float32[np.ndarray, " N"]:
    """Compute the entropy of the zero-shot class distribution of each image, in nats.

    Args:
        vectors: Vectors of the images, each of length 1.
        classes: Vectors of the classes, each of length 1.
        logit_scale: Factor of the model from cosines to logits.
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
    """Select the rows of images for training, best first.

    Args:
        vectors: Vectors of all images, each of length 1.
        choice: Configuration of the selection.
        scores: Score of each image; None treats all alike, in the given order.
        away_from: Vectors whose cosine with each selected image is at most `max_similarity`, such
            as those of a test set.
        progress: Optional progress callback.

    Raises:
        SearchError: `away_from` is given without `max_similarity`.
    """
    if away_from is not None and choice.max_similarity is None:
        raise ArgumentError("away_from needs max_similarity, the maximum cosine to these images")
    order = np.arange(len(vectors)) if scores is None else np.argsort(-scores, kind="stable")
    if scores is not None and choice.min_score is not None:
        order = order[scores[order] >= choice.min_score]
    wanted: int | None = choice.count
    if choice.diverse:
        wanted = None if scores is None else choice.count * choice.pool
    if choice.max_similarity is None:
        rows = order[:wanted].tolist()
    else:
        rows = drop_near_duplicates(
            vectors,
            order.tolist(),
            max_similarity=choice.max_similarity,
            count=wanted,
            away_from=away_from,
        )
    if not choice.diverse:
        return rows
    return [rows[position] for position in k_center(vectors[rows], choice.count, progress=progress)]
