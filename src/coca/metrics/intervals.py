"""Confidence intervals (95 %) of scores over the samples of an evaluation.

An interval is about the sample of queries or images. It has nothing of the spread over seeds of
training, which needs several models.

Dimensions: N independent units, such as queries or images.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Z = 1.959964
"""Normal quantile of 97.5 %."""

RESAMPLES = 1_000


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """Compute Wilson's score interval of a fraction of independent trials (Wilson 1927).

    Unlike the normal approximation it stays in [0, 1] and fits small counts.

    Args:
        fraction: Fraction of successes, 0 to 1.
        count: Number of trials, at least 1.

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


def bootstrap_interval(values: Float[ndarray, " N"], *, seed: int = 0) -> tuple[float, float]:
    """Compute the percentile interval of a mean by 1,000 bootstrap resamples of the units.

    Args:
        values: Score of each unit, such as the fraction of an image's captions that find it.
        seed: Seed of the resamples.

    Raises:
        ValueError: There is no value.
    """
    if not len(values):
        raise ValueError("an interval needs at least 1 value, got none")
    generator = np.random.default_rng(seed)
    equal = np.full(len(values), 1 / len(values))
    counts = generator.multinomial(len(values), equal, size=RESAMPLES)
    low, high = np.percentile(counts @ np.asarray(values, float) / len(values), (2.5, 97.5))
    return float(low), float(high)


def interval_shown(interval: tuple[float, float] | None) -> str:
    """Format an interval for a table; empty for None."""
    return "" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"
