"""Visual entailment (SNLI-VE), NLVR and NLVR2, by a classification head.

Visual entailment classifies whether an image entails a hypothesis, is neutral to it or contradicts
it. NLVR2 classifies whether a sentence is true of two images. The head is the one of VQA. Each
image passes the decoder separately, and the pooled outputs are concatenated (CoCa, appendix B).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from coca.core.errors import ConfigError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Sample
from coca.inference.head_inference import head_of
from coca.inference.predictor import Predictor
from coca.metrics.answers import consistency
from coca.metrics.classification import per_class_accuracy, softmax
from coca.model.config import HeadConfig
from coca.tasks.base import (
    PREFLIGHT,
    TASKS,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    samples_in_parts,
)
from coca.tasks.classification.recognition import class_indices
from coca.tasks.report_samples import (
    Example,
    ImageRow,
    ReportSamples,
    per_class_results,
    thumbnail,
)
from coca.tasks.understanding.prompts import require_texts, text_inputs

SHOWN = 8
"""Number of correct and of wrong statements in a report."""

PART = 512
"""Statements whose images are in memory at the same time."""


@dataclass(frozen=True)
class _Judged:
    """Statements without their images, with predicted and true classes."""

    samples: list[Sample]
    predicted: Int[ndarray, " N"]
    targets: Int[ndarray, " N"]
    bad: tuple[str, ...]
    rows: tuple[ImageRow, ...]


@TASKS.register("entailment")
def entailment(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute accuracy, overall and per class, with chance and majority-class accuracy."""
    judged = _judge(predictor, config, progress)
    return _result("entailment", judged, predictor.classes, {})


@TASKS.register("nlvr2")
def nlvr2(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Compute accuracy and consistency: the fraction of sentences correct for all their images.

    Sentences are grouped by the metadata key `group`, else by their text. NLVR, with statements
    about one image, is scored in the same way.
    """
    judged = _judge(predictor, config, progress)
    groups = [str(it.metadata.get("group", it.text)) for it in judged.samples]
    most = np.bincount(judged.targets).argmax()
    further = {
        "consistency": consistency(judged.predicted == judged.targets, groups),
        "majority_consistency": consistency(judged.targets == most, groups),
        "sentences": float(len({*groups})),
    }
    return _result("nlvr2", judged, predictor.classes, further)


@PREFLIGHT.register("entailment")
@PREFLIGHT.register("nlvr2")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the head reads text, and that all samples have a text and a known label."""
    head = _text_head(predictor)
    samples = read_all_metadata(config.data, limit=config.limit)
    require_texts(samples, config)
    class_indices(samples, head.classes, config.data.title)


def _judge(predictor: Predictor, config: TaskConfig, progress: ProgressMaker) -> _Judged:
    head = _text_head(predictor)
    samples: list[Sample] = []
    all_logits: list[Float[ndarray, "n K"]] = []
    shown: dict[bool, list[Example]] = {True: [], False: []}
    bad: list[str] = []
    for part in samples_in_parts(
        config.data, bad=bad, size=PART, limit=config.limit, progress=progress
    ):
        usable = _with_enough_images(part, head, bad)
        if not usable:
            continue
        logits = predictor.head_logits(
            [sample.images for sample in usable], text_inputs(usable, config.data)
        )
        _show(shown, usable, logits, class_indices(usable, head.classes, config.data.title), head)
        all_logits.append(logits)
        samples += [replace(sample, image=b"", others=()) for sample in usable]
    if not samples:
        raise ConfigError(
            f"no statement of {config.data.title} has as many images as the model's head reads "
            f"({head.images_per_sample}): {bad[0]}"
        )
    image_rows = [
        ImageRow(heading, tuple(shown[correct]))
        for correct, heading in ((True, "Correct"), (False, "Wrong"))
        if shown[correct]
    ]
    return _Judged(
        samples,
        np.concatenate(all_logits).argmax(axis=1),
        class_indices(samples, head.classes, config.data.title),
        tuple(bad),
        tuple(image_rows),
    )


def _result(
    task: str, judged: _Judged, classes: Sequence[str], further: dict[str, float]
) -> TaskResult:
    correct = judged.predicted == judged.targets
    each = per_class_accuracy(judged.predicted, judged.targets, len(classes))
    metrics = {
        "accuracy": float(correct.mean()),
        **further,
        "mean_per_class": float(np.nanmean(each)),
        **{
            f"accuracy_{name}": float(share)
            for name, share in zip(classes, each, strict=True)
            if not np.isnan(share)
        },
        "chance_accuracy": 1 / len(classes),
        "majority_accuracy": float(np.bincount(judged.targets).max() / len(correct)),
    }
    predicted_share = np.bincount(judged.predicted, minlength=len(classes)) / len(correct)
    per_class, confusion = per_class_results(judged.predicted, judged.targets, list(classes))
    return TaskResult(
        task,
        metrics,
        len(correct),
        judged.bad,
        {"predicted_share": dict(zip(classes, predicted_share.tolist(), strict=True))},
        headline=("accuracy", "consistency") if "consistency" in further else ("accuracy",),
        report_samples=ReportSamples(judged.rows, per_class, confusion),
    )


def _text_head(predictor: Predictor) -> HeadConfig:
    head = head_of(predictor.model)
    if head.reads != "text":
        raise ConfigError(
            "the model's head reads images only; a statement needs a head that reads text"
        )
    return head


def _with_enough_images(part: list[Sample], head: HeadConfig, bad: list[str]) -> list[Sample]:
    """Return the samples with as many images as the head reads; report the others in `bad`."""
    usable = []
    for sample in part:
        if len(sample.images) == head.images_per_sample:
            usable.append(sample)
        else:
            bad.append(
                f"{sample.key}: it has {len(sample.images)} images, but the head reads "
                f"{head.images_per_sample}"
            )
    return usable


def _show(
    shown: dict[bool, list[Example]],
    samples: Sequence[Sample],
    logits: Float[ndarray, "N K"],
    targets: Int[ndarray, " N"],
    head: HeadConfig,
) -> None:
    """Add the first correct and the first wrong statements to the report samples."""
    sure = softmax(logits)
    for sample, row, target in zip(samples, sure, targets.tolist(), strict=True):
        predicted = int(row.argmax())
        examples = shown[predicted == target]
        if len(examples) < SHOWN:
            lines = (
                sample.text,
                f"predicted: {head.classes[predicted]} ({row[predicted]:.0%})",
                f"true: {head.classes[target]}",
            )
            examples.append(Example(lines, thumbnail(sample.image), correct=predicted == target))
