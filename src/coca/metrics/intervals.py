"""Confidence intervals (95 %) of scores over the samples of an evaluation.

An interval is about the sample of queries or images. It has nothing of the spread over seeds of
training, which needs several models.

Dimensions: N clusters, such as images.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray

Z = 1.959964
"""Normal quantile of 97.5 %."""


def wilson_interval(fraction: float, count: int | float) -> tuple[float, float]:
    """Compute Wilson's score interval of a fraction of independent trials (Wilson 1927).

    Unlike the normal approximation it stays in [0, 1] and fits small counts.

    Raises:
        ValueError: `fraction` or `count` is out of range.
    """
    if count < 1 or not 0 <= fraction <= 1:
        raise ValueError(
            f"fraction must be in [0, 1] and count at least 1, got {fraction} of {count}"
        )
    spread = Z**2 / count
    middle = (fraction + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(fraction * (1 - fraction) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def cluster_interval(
    successes: Num[ndarray, " N"], trials: Num[ndarray, " N"]
) -> tuple[float, float]:
    """Compute Wilson's interval of a fraction of clustered trials, such as captions of images.

    Trials of one cluster are not independent. Their number is replaced by the effective sample
    size, from the variance between clusters (Kish 1965). If all succeed or none, it is the number
    of clusters: 20 of 20 images do not prove a fraction of 1.

    Raises:
        ValueError: The arrays are empty.
    """
    clusters = len(trials)
    if not clusters:
        raise ValueError("an interval needs at least 1 cluster, got none")
    total = float(trials.sum())
    fraction = float(successes.sum()) / total
    # Of a ratio of sums, linearized.
    squares = float(np.square(successes - fraction * trials).sum())
    variance = squares * clusters / max(1, clusters - 1) / total**2
    of_one = fraction * (1 - fraction)
    count = min(total, of_one / max(variance, 1e-12)) if of_one else float(clusters)
    return wilson_interval(fraction, max(1.0, count))


def grouped_interval(scores: Float[ndarray, " M"], groups: Sequence[object]) -> tuple[float, float]:
    """Compute `cluster_interval` of M scores of 0 to 1, such as of questions grouped by image.

    Raises:
        ValueError: The arrays are empty.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    group_of = np.array([numbers[name] for name in groups], np.int64)
    return cluster_interval(np.bincount(group_of, scores), np.bincount(group_of))


def mean_interval(scores: Float[ndarray, " N"]) -> tuple[float, float]:
    """Compute the normal interval of a mean of independent scores, at least 0.

    Raises:
        ValueError: There are fewer than 2 scores.
    """
    if len(scores) < 2:
        raise ValueError(f"an interval of a mean needs at least 2 scores, got {len(scores)}")
    half = Z * float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return max(0.0, float(scores.mean()) - half), float(scores.mean()) + half


def interval_shown(interval: tuple[float, float] | None) -> str:
    """Format an interval for a table; empty for None."""
    return "" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"
