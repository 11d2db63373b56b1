"""Data selection for training, and diverse subsets by vectors.

Dimensions: N candidates, E embedding, K chosen; N images, M examples, K classes, E embedding.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from coca.core.errors import ArgumentError
from coca.core.progress import progress_bar
from coca.search.search_options import Choice

# Diverse subsets by vectors: MMR, greedy k-center, and near-duplicate removal.


_BLOCK = 1_024
_ROUNDING = 1e-6
"""Tolerance of the cosine of equal vectors around 1."""


def mmr(
    vectors: Float[np.ndarray, "N E"],
    relevance: Float[np.ndarray, " N"],
    count: int,
    *,
    diversity: float,
) -> list[tuple[int, float]]:
    """Select rows by maximal marginal relevance (MMR).

    Each step selects the row with the largest `(1 - diversity) * relevance - diversity * (cosine
    to the nearest row chosen before)` (Carbonell and Goldstein 1998). That cosine is -1 for the
    first row.

    Returns:
        Rows with their marginal relevance, in non-increasing order.
    """
    nearest = np.full(len(vectors), -1.0)
    left = np.ones(len(vectors), bool)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(count, len(vectors))):
        gain = (1 - diversity) * relevance - diversity * nearest
        row = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append((row, float(gain[row])))
        left[row] = False
        nearest = np.maximum(nearest, vectors @ vectors[row])
    return chosen


def k_center(
    vectors: Float32[np.ndarray, "N E"],
    count: int,
) -> list[int]:
    """Select a covering subset by greedy k-center: each row is the farthest from those before.

    Greedy algorithm of Gonzalez (1985): its largest distance is at most twice the optimum.
    """
    if not len(vectors) or count < 1:
        return []
    chosen, row = [0], 0
    nearest = np.full(len(vectors), -np.inf, np.float32)
    with progress_bar("spreading out", min(count, len(vectors))) as bar:
        bar.advance()
        while len(chosen) < min(count, len(vectors)):
            np.maximum(nearest, vectors @ vectors[row], out=nearest)
            nearest[row] = np.inf
            row = int(np.argmin(nearest))
            chosen.append(row)
            bar.advance()
    return chosen


def drop_near_duplicates(
    vectors: Float32[np.ndarray, "N E"],
    order: Sequence[int],
    *,
    max_similarity: float,
    count: int | None = None,
    away_from: Float32[np.ndarray, "M E"] | None = None,
) -> list[int]:
    """Select rows greedily so that no two have a cosine above `max_similarity`."""
    taken: list[int] = []
    wanted = len(order) if count is None else count
    for start in range(0, len(order), _BLOCK):
        block = np.asarray(order[start : start + _BLOCK])
        free = np.ones(len(block), bool)
        for others in (away_from, vectors[taken]):
            if others is not None and len(others):
                free &= (vectors[block] @ others.T).max(axis=1) <= max_similarity + _ROUNDING
        alike = vectors[block] @ vectors[block].T > max_similarity + _ROUNDING
        for position in range(len(block)):
            if len(taken) == wanted:
                return taken
            if free[position]:
                taken.append(int(block[position]))
                free &= ~alike[position]
    return taken


# Data selection for training: by query, by examples, by entropy, or by k-center.


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
    """Compute the entropy of the zero-shot class distribution of each image, in nats."""
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
) -> list[int]:
    """Select the rows of images for training, best first."""
    if away_from is not None and choice.max_similarity is None:
        raise ArgumentError("away_from needs max_similarity, the maximum cosine to these images")
    order = np.arange(len(vectors)) if scores is None else np.argsort(-scores, kind="stable")
    if scores is not None and choice.min_score is not None:
        order = order[scores[order] >= choice.min_score]
    count = choice.count or max(1, round((choice.fraction or 0) * len(vectors)))
    wanted: int | None = count
    if choice.diverse:
        wanted = None if scores is None else count * choice.pool
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
    return [rows[position] for position in k_center(vectors[rows], count)]
