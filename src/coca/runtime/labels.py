"""Labels with their probabilities, the result of classification on every runtime.

Dimensions: N samples, K labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.metrics.classification import softmax


@dataclass(frozen=True)
class Prediction:
    """A label and its probability."""

    label: str
    probability: float
    """Softmax probability, 0 to 1; it sums to 1 over the candidate labels."""


def predictions(logits: Float[ndarray, "N K"], labels: Sequence[str]) -> list[list[Prediction]]:
    """Apply softmax and sort the labels of each sample, most probable first.

    A sample whose logits are NaN, one that was skipped, has no predictions.
    """
    skipped = np.isnan(logits).any(axis=1)
    ranked = iter(
        [Prediction(labels[k], float(row[k])) for k in np.argsort(-row, kind="stable")]
        for row in softmax(logits[~skipped])
    )
    return [[] if is_skipped else next(ranked) for is_skipped in skipped]
