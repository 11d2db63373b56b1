"""Classification metrics and report samples of a classifier, for single-label samples.

Axes: N samples, C classes.
"""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.data.sample import Sample
from coca.metrics.classification import per_class_accuracy, softmax, top_k_accuracy
from coca.metrics.intervals import wilson_interval
from coca.tasks.base import TaskResult
from coca.tasks.report_samples import (
    Example,
    ImageRow,
    ReportSamples,
    per_class_results,
    thumbnail,
)

logger = logging.getLogger(__name__)

SHOWN = 8
"""Number of correct and of wrong samples in a report."""


def classified(
    task: str,
    logits: Float[ndarray, "N C"],
    targets: Int[ndarray, " N"],
    classes: Sequence[str],
    bad: tuple[str, ...],
    *,
    samples: Sequence[Sample] = (),
    **details: float | int,
) -> TaskResult:
    """Compute top-1, top-5, mean per-class accuracy, chance and majority-class accuracy.

    Args:
        task: Name of the task.
        logits: Logits of the classifier.
        targets: Index of the true class of each sample.
        classes: Class names.
        bad: Error message of each skipped sample.
        samples: Samples with images, of which the report shows the most confident; default: none.
        **details: Further entries for `TaskResult.details`.
    """
    if len(classes) == 1:
        logger.warning(
            "all %d samples of %s have the one class %r, so every score is 1 and meaningless; "
            "label them by class folders, a label column or sidecars",
            len(targets),
            task,
            classes[0],
        )
    predicted = logits.argmax(axis=1)
    accuracy = per_class_accuracy(predicted, targets, len(classes))
    metrics = {
        "top1": top_k_accuracy(logits, targets, 1),
        "top5": top_k_accuracy(logits, targets, min(5, len(classes))),
        "mean_per_class": float(np.nanmean(accuracy)),
        "chance_top1": 1 / len(classes),
        "chance_top5": min(1.0, 5 / len(classes)),
        "majority_top1": float(np.bincount(targets).max() / len(targets)),
    }
    worst = [classes[index] for index in np.argsort(accuracy, kind="stable")[:10]]
    per_class, confusion = per_class_results(predicted, targets, list(classes))
    confidence = softmax(logits)
    image_rows = _most_confident(samples, confidence, targets, classes) if samples else ()
    return TaskResult(
        task,
        metrics,
        len(targets),
        bad,
        {"classes": len(classes), "worst_classes": worst, **details},
        # With at most five classes, top-5 accuracy is always 1.
        headline=("top1", "top5") if len(classes) > 5 else ("top1",),
        report_samples=ReportSamples(image_rows, per_class, confusion),
        intervals={name: wilson_interval(metrics[name], len(targets)) for name in ("top1", "top5")},
    )


def _most_confident(
    samples: Sequence[Sample],
    probability: Float[ndarray, "N C"],
    targets: Int[ndarray, " N"],
    names: Sequence[str],
) -> tuple[ImageRow, ...]:
    """Select the most confident samples, correct and wrong."""
    predicted, sure = probability.argmax(axis=1), probability.max(axis=1)
    image_rows = []
    for heading, chosen in (
        ("Most confident, correct", predicted == targets),
        ("Most confident, wrong", predicted != targets),
    ):
        rows = [row for row in np.argsort(-sure, kind="stable").tolist() if chosen[row]][:SHOWN]
        examples = [
            Example(
                (
                    f"{names[predicted[row]]} ({sure[row]:.0%})",
                    f"true: {names[targets[row]]} ({probability[row, targets[row]]:.0%})",
                ),
                thumbnail(_middle(samples[row].images)),
                correct=bool(predicted[row] == targets[row]),
            )
            for row in rows
        ]
        if examples:
            image_rows.append(ImageRow(heading, tuple(examples)))
    return tuple(image_rows)


def _middle(images: Sequence[bytes]) -> bytes:
    """Return the image, or the middle frame of a video."""
    return images[len(images) // 2]
