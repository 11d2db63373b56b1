"""Diverse subsets by vectors: MMR, greedy k-center, and near-duplicate removal.

Dimensions: N candidates, E embedding, K chosen.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from coca.core.progress import ProgressMaker, silent

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

    Args:
        vectors: Vectors of the candidates, each of length 1.
        relevance: Relevance of each candidate, such as its cosine to the query.
        count: Maximum number of rows.
        diversity: Trade-off from 0 (relevance only) to 1 (diversity only).

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
    *,
    first: int = 0,
    progress: ProgressMaker = silent,
) -> list[int]:
    """Select a covering subset by greedy k-center: each row is the farthest from those before.

    Greedy algorithm of Gonzalez (1985): its largest distance is at most twice the optimum.

    Args:
        vectors: Of the candidates, each of length 1.
        count: How many to choose, at most.
        first: First row.
        progress: Optional progress callback; each step compares all candidates.
    """
    if not len(vectors) or count < 1:
        return []
    chosen, row = [first], first
    nearest = np.full(len(vectors), -np.inf, np.float32)
    with progress("spreading out", min(count, len(vectors))) as bar:
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
    """Select rows greedily so that no two have a cosine above `max_similarity`.

    Args:
        vectors: Of the candidates, each of length 1.
        order: Rows in order of preference.
        max_similarity: Maximum cosine of two selected rows.
        count: Maximum number of rows; None means all.
        away_from: Further vectors whose cosine with each row is limited, such as those of a test
            set.
    """
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
