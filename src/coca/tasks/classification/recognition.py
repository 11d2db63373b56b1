"""Recognition task: accuracy of a classification head, with a report of its errors.

Axes: N samples, C classes.
"""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.metrics.classification import per_class_accuracy, softmax, top_k_accuracy
from coca.metrics.intervals import wilson_interval
from coca.model.coca_config import HeadConfig
from coca.model.heads import head_of
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import require_coca
from coca.tasks.baselines import class_guesses
from coca.tasks.task import (
    PREFLIGHT,
    SHOWN,
    TASKS,
    Example,
    ImageRow,
    ReportSamples,
    TaskConfig,
    TaskResult,
    filled_rows,
    per_class_results,
    read_all_metadata,
    read_samples,
    thumbnail,
)

# Classification metrics and report samples of a classifier, for single-label samples.


logger = logging.getLogger(__name__)


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
    """Compute top-1, top-5, mean per-class accuracy, chance and majority-class accuracy."""
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
        **class_guesses("top1", targets, len(classes)),
        "chance_top5": min(1.0, 5 / len(classes)),
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
    examples = {}
    for heading, chosen in (
        ("Most confident, correct", predicted == targets),
        ("Most confident, wrong", predicted != targets),
    ):
        rows = [row for row in np.argsort(-sure, kind="stable").tolist() if chosen[row]][:SHOWN]
        examples[heading] = [
            Example(
                (
                    f"{names[predicted[row]]} ({sure[row]:.0%})",
                    f"true: {names[targets[row]]} ({probability[row, targets[row]]:.0%})",
                ),
                thumbnail(samples[row].images[len(samples[row].images) // 2]),
                correct=bool(predicted[row] == targets[row]),
            )
            for row in rows
        ]
    return filled_rows(examples)


# Image classification by a trained head: frozen features or fine-tuning (section 4.2).


@TASKS.register("recognition")
def recognition(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute top-1, top-5 and mean per-class accuracy over the classes of the model's head.

    The first label of a sample is its class. Samples have as many images as the head reads. Chance
    and majority-class accuracy are reported as well.
    """
    head = _image_head(predictor)
    samples, bad = read_samples(config.data, limit=config.limit)
    targets = class_indices(samples, head.classes, config.data.title)
    logits = predictor.head_logits([sample.images for sample in samples])
    return classified("recognition", logits, targets, head.classes, bad, samples=samples)


@PREFLIGHT.register("recognition")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the head reads images, and that it has all labels of the data."""
    head = _image_head(predictor)
    samples = read_all_metadata(config.data, limit=config.limit)
    class_indices(samples, head.classes, config.data.title)


def require_labels(samples: Sequence[Sample], title: str) -> None:
    """Check that each sample has a label."""
    if without := [sample.key for sample in samples if not sample.labels]:
        raise DataError(
            f"{len(without)} samples of {title} have no label (such as {without[0]}); use class "
            "folders, or a label column, member or sidecar",
            reason="no_label",
        )


def class_indices(
    samples: Sequence[Sample], classes: Sequence[str], title: str
) -> Int[ndarray, " N"]:
    """Return the index of each sample's class in `classes`."""
    require_labels(samples, title)
    indices = {name: index for index, name in enumerate(classes)}
    if strange := sorted({sample.labels[0] for sample in samples} - indices.keys()):
        raise DataError(
            f"{title} has {len(strange)} classes that training has not, such as {strange[0]!r}; "
            f"known are {len(indices)}, such as {classes[0]!r}",
            reason="unknown_label",
        )
    return np.array([indices[sample.labels[0]] for sample in samples], np.int64)


def _image_head(predictor: Predictor) -> HeadConfig:
    head = head_of(require_coca(predictor).model).config
    if head.reads != "image":
        raise ConfigError("the model's head reads text; recognition needs a head that reads images")
    return head
