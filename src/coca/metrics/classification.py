"""Classification metrics: top-k accuracy, confusion matrix, per-class accuracy.

Dimensions: N samples, C classes.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


def softmax(logits: Float[ndarray, "N C"]) -> Float[ndarray, "N C"]:
    """Compute the softmax of each row; the largest logit is subtracted to avoid overflow."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def top_k_accuracy(scores: Float[ndarray, "N C"], targets: Int[ndarray, " N"], k: int = 1) -> float:
    """Compute the fraction of samples whose class is among the `k` highest scores; 0 to 1.

    Ties are broken by position, so that equal scores for all classes gain nothing.

    Raises:
        ValueError: There is no sample, a score is NaN, a target is not a class, or `k` is below 1.
    """
    classes = scores.shape[1]
    if k < 1:
        raise ValueError(f"k is {k}; accuracy looks at the first 1 or more classes")
    if np.isnan(scores).any():
        raise ValueError(f"scores contain {np.isnan(scores).sum()} NaN, which has no rank")
    _check_classes(targets, classes, "target")
    right = np.take_along_axis(scores, targets[:, None], axis=1)
    earlier = np.arange(classes) < targets[:, None]
    before = ((scores > right) | (earlier & (scores == right))).sum(axis=1)
    return float((before < k).mean())


def confusion_matrix(
    predicted: Int[ndarray, " N"], targets: Int[ndarray, " N"], classes: int
) -> Int[ndarray, "C C"]:
    """Count the samples of each true class (row) by predicted class (column).

    Raises:
        ValueError: There is no sample, or a prediction or target is not in [0, `classes`).
    """
    _check_classes(predicted, classes, "prediction")
    _check_classes(targets, classes, "target")
    pairs = np.bincount(targets.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def per_class_accuracy(
    predicted: Int[ndarray, " N"], targets: Int[ndarray, " N"], classes: int
) -> Float[ndarray, " C"]:
    """Compute the accuracy of each class, 0 to 1; NaN for a class without samples.

    Its `np.nanmean` is the mean per-class accuracy of unbalanced benchmarks.

    Raises:
        ValueError: As `confusion_matrix`.
    """
    confusion = confusion_matrix(predicted, targets, classes)
    counts = confusion.sum(axis=1)
    return np.where(counts > 0, confusion.diagonal() / np.maximum(counts, 1), np.nan)


def _check_classes(values: Int[ndarray, " N"], classes: int, what: str) -> None:
    if values.size == 0:
        raise ValueError("there is no sample to score")
    if values.min() < 0 or values.max() >= classes:
        wrong = values[(values < 0) | (values >= classes)][0]
        raise ValueError(f"{what} {wrong} is not a class; classes are 0 to {classes - 1}")
