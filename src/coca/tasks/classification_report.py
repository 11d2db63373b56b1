"""What became of samples with one right class each, whoever classified them.

Axes: N samples, C classes.
"""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.data.sample import Sample
from coca.metrics.classification import per_class_accuracy, top_k_accuracy
from coca.tasks.base import TaskResult
from coca.tasks.report_samples import (
    Example,
    ImageRow,
    Shown,
    classes_shown,
    probabilities,
    thumbnail,
)

logger = logging.getLogger(__name__)

SHOWN = 8
"""Samples of each kind that a report gets."""


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
    """Top-1, top-5, mean per-class accuracy, chance, the most frequent class, and what to show.

    Args:
        task: Its name.
        logits: Whose softmax says how sure the classifier is.
        targets: The right class of each sample.
        classes: Their names.
        bad: A sentence for each sample that was left out.
        samples: With their images, so that a report shows the surest; none: it shows none.
        **details: What goes along.
    """
    if len(classes) == 1:
        logger.warning(
            "all %d samples of %s have the one class %r, so every score is 1 and says nothing; "
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
    worst = [classes[place] for place in np.argsort(accuracy, kind="stable")[:10]]
    per_class, confusion = classes_shown(predicted, targets, list(classes))
    strips = _surest(samples, probabilities(logits), targets, classes) if samples else ()
    return TaskResult(
        task,
        metrics,
        len(targets),
        bad,
        {"classes": len(classes), "worst_classes": worst, **details},
        # Of five classes, the first five hold the right one whatever was learned.
        headline=("top1", "top5") if len(classes) > 5 else ("top1",),
        shown=Shown(strips, per_class, confusion),
    )


def _surest(
    samples: Sequence[Sample],
    probability: Float[ndarray, "N C"],
    targets: Int[ndarray, " N"],
    names: Sequence[str],
) -> tuple[ImageRow, ...]:
    """The samples that the model was most sure of, where it was right and where it was wrong."""
    predicted, sure = probability.argmax(axis=1), probability.max(axis=1)
    strips = []
    for heading, chosen in (
        ("Surest and right", predicted == targets),
        ("Surest and wrong", predicted != targets),
    ):
        rows = [row for row in np.argsort(-sure, kind="stable").tolist() if chosen[row]][:SHOWN]
        cases = [
            Example(
                (
                    f"{names[predicted[row]]} ({sure[row]:.0%})",
                    f"is: {names[targets[row]]} ({probability[row, targets[row]]:.0%})",
                ),
                thumbnail(_middle(samples[row].images)),
                right=bool(predicted[row] == targets[row]),
            )
            for row in rows
        ]
        if cases:
            strips.append(ImageRow(heading, tuple(cases)))
    return tuple(strips)


def _middle(images: Sequence[bytes]) -> bytes:
    """The image itself, or the frame in the middle of a video."""
    return images[len(images) // 2]
