"""Retrieval metrics: recall at k and median rank.

Dimensions: Q queries, K ranked items.
"""

from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


def first_relevant_rank(
    similarity: Float[ndarray, "Q K"], relevant: Bool[ndarray, "Q K"]
) -> Int[ndarray, " Q"]:
    """Compute the rank of the first relevant item of each query; 1 is the best, K the worst.

    Items are ranked by descending similarity; ties are broken by position, earlier items first.

    Raises:
        ValueError: There is no query, a similarity is NaN, or a query has no relevant item.
    """
    if similarity.size == 0:
        raise ValueError(f"similarity of shape {similarity.shape} has nothing to rank")
    if np.isnan(similarity).any():
        raise ValueError(f"similarity contains {np.isnan(similarity).sum()} NaN, which has no rank")
    if not (found := relevant.any(axis=1)).all():
        raise ValueError(f"query {found.argmin()} has no relevant item; each query needs one")
    # Counting the items before the best relevant item needs no sort and no (Q, K) index array.
    best = np.max(similarity, axis=1, where=relevant, initial=-np.inf, keepdims=True)
    position = (relevant & (similarity == best)).argmax(axis=1, keepdims=True)
    earlier = np.arange(similarity.shape[1]) < position
    return 1 + ((similarity > best) | (earlier & (similarity == best))).sum(axis=1)


def chance_recall(relevant: Bool[ndarray, "Q K"], k: int) -> float:
    """Compute the expected recall at `k` of a random ranking, 0 to 1.

    Raises:
        ValueError: There is no query, or `k` is below 1.
    """
    queries, items = relevant.shape
    if k < 1 or not queries:
        raise ValueError(f"k is {k} of {queries} queries; both must be at least 1")
    rankings = comb(items, min(k, items))
    missed = [
        comb(items - count, min(k, items)) / rankings for count in relevant.sum(axis=1).tolist()
    ]
    return 1 - sum(missed) / queries


def retrieval_scores(
    similarity: Float[ndarray, "Q K"], relevant: Bool[ndarray, "Q K"]
) -> dict[str, float]:
    """Compute recall at 1, 5 and 10 (0 to 1) and the median rank.

    Raises:
        ValueError: As `first_relevant_rank`.
    """
    ranks = first_relevant_rank(similarity, relevant)
    recalls = {f"recall@{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
    return recalls | {"median_rank": float(np.median(ranks))}
