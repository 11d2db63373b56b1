"""Choosing few out of many by their vectors: relevant and different, spread out, or no two alike.

Dimensions: N candidates, E embedding, K chosen.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from coca.core.progress import ProgressMaker, silent

_BLOCK = 1_024
_ROUNDING = 1e-6
"""By so much the cosine of equal vectors may be off 1."""


def mmr(
    vectors: Float[np.ndarray, "N E"],
    relevance: Float[np.ndarray, " N"],
    count: int,
    *,
    diversity: float,
) -> list[tuple[int, float]]:
    """The rows to show: each the best by relevance less its likeness to those before it.

    Maximal marginal relevance (Carbonell and Goldstein 1998): the next row is the one of largest
    `(1 - diversity) * relevance - diversity * (cosine to the nearest row chosen before)`, where
    that cosine is -1 for the first row.

    Args:
        vectors: Of the candidates, each of length 1.
        relevance: Of each candidate, such as its cosine to the query.
        count: How many to choose, at most.
        diversity: 0 goes by relevance alone, 1 by difference alone.

    Returns:
        Rows, each with the marginal relevance that it was chosen by, which never grows.
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
    """The rows of a subset that leaves no candidate far away: each the farthest from those before.

    The greedy choice of Gonzalez (1985): its largest distance is at most twice the least possible.

    Args:
        vectors: Of the candidates, each of length 1.
        count: How many to choose, at most.
        first: The row to begin with.
        progress: Shows how far it is; each choice compares all candidates.
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
    most: float,
    count: int | None = None,
    away_from: Float32[np.ndarray, "M E"] | None = None,
) -> list[int]:
    """Rows of which no two are more alike than `most`, taken in an order.

    Args:
        vectors: Of the candidates, each of length 1.
        order: Rows, those to prefer first.
        most: Largest cosine of two rows that are taken.
        count: Stop when so many have been taken.
        away_from: Vectors that the rows must be unlike as well, such as those of a test set.
    """
    taken: list[int] = []
    wanted = len(order) if count is None else count
    for start in range(0, len(order), _BLOCK):
        block = np.asarray(order[start : start + _BLOCK])
        free = np.ones(len(block), bool)
        for others in (away_from, vectors[taken]):
            if others is not None and len(others):
                free &= (vectors[block] @ others.T).max(axis=1) <= most + _ROUNDING
        alike = vectors[block] @ vectors[block].T > most + _ROUNDING
        for place in range(len(block)):
            if len(taken) == wanted:
                return taken
            if free[place]:
                taken.append(int(block[place]))
                free &= ~alike[place]
    return taken
