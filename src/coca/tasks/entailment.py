"""Statements about images that a head judges: visual entailment, NLVR and NLVR2.

Entailment asks whether a photo entails a hypothesis, leaves it open or contradicts it; NLVR2
whether a sentence is true of two photos. The head is that of VQA; of two photos each goes through
the decoder by itself, and what is pooled of either is put side by side (CoCa, appendix B).
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
from coca.metrics.classification import per_class_accuracy
from coca.model.config import HeadConfig
from coca.tasks.base import PREFLIGHT, TASKS, TaskConfig, TaskResult, samples_in_parts, words_in
from coca.tasks.prompts import asked, require_texts
from coca.tasks.recognition import class_places
from coca.tasks.report_samples import (
    Example,
    ImageRow,
    Shown,
    classes_shown,
    probabilities,
    thumbnail,
)

SHOWN = 8
"""Statements of each kind that a report gets."""

PART = 512
"""Statements whose images are in memory at one time."""


@dataclass(frozen=True)
class _Judged:
    """Statements, their images dropped, with what the model said and what is right."""

    samples: list[Sample]
    predicted: Int[ndarray, " N"]
    targets: Int[ndarray, " N"]
    bad: tuple[str, ...]
    strips: tuple[ImageRow, ...]


@TASKS.register("entailment")
def entailment(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Accuracy over all hypotheses and for each verdict, beside guessing and the commonest one."""
    judged = _judge(predictor, config, progress)
    return _result("entailment", judged, predictor.classes, {})


@TASKS.register("nlvr2")
def nlvr2(
    predictor: Predictor, config: TaskConfig, *, progress: ProgressMaker = silent
) -> TaskResult:
    """Accuracy, and consistency: the share of sentences judged rightly of all their images.

    Sentences are told apart by the metadata `group`, else by their words. For NLVR, too, whose
    statements are about one image.
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
    """Finds a head that reads no words, statements without words, and verdicts it does not know."""
    head = _reading_words(predictor)
    words = words_in(config.data, limit=config.limit)
    require_texts(words, config)
    class_places(words, head.classes, config.data.title)


def _judge(predictor: Predictor, config: TaskConfig, progress: ProgressMaker) -> _Judged:
    head = _reading_words(predictor)
    samples: list[Sample] = []
    rows: list[Float[ndarray, "n K"]] = []
    shown: dict[bool, list[Example]] = {True: [], False: []}
    bad: list[str] = []
    for part in samples_in_parts(
        config.data, bad=bad, size=PART, limit=config.limit, progress=progress
    ):
        usable = _with_enough_pictures(part, head, bad)
        if not usable:
            continue
        logits = predictor.head_logits(
            [sample.images for sample in usable], asked(usable, config.data)
        )
        _show(shown, usable, logits, class_places(usable, head.classes, config.data.title), head)
        rows.append(logits)
        samples += [replace(sample, image=b"", others=()) for sample in usable]
    if not samples:
        raise ConfigError(
            f"no statement of {config.data.title} has as many images as the model's head reads "
            f"({head.pictures}): {bad[0]}"
        )
    strips = [
        ImageRow(heading, tuple(shown[right]))
        for right, heading in ((True, "Right"), (False, "Wrong"))
        if shown[right]
    ]
    return _Judged(
        samples,
        np.concatenate(rows).argmax(axis=1),
        class_places(samples, head.classes, config.data.title),
        tuple(bad),
        tuple(strips),
    )


def _result(
    task: str, judged: _Judged, classes: Sequence[str], further: dict[str, float]
) -> TaskResult:
    right = judged.predicted == judged.targets
    each = per_class_accuracy(judged.predicted, judged.targets, len(classes))
    metrics = {
        "accuracy": float(right.mean()),
        **further,
        "mean_per_class": float(np.nanmean(each)),
        **{
            f"accuracy_{name}": float(share)
            for name, share in zip(classes, each, strict=True)
            if not np.isnan(share)
        },
        "chance_accuracy": 1 / len(classes),
        "majority_accuracy": float(np.bincount(judged.targets).max() / len(right)),
    }
    said = np.bincount(judged.predicted, minlength=len(classes)) / len(right)
    per_class, confusion = classes_shown(judged.predicted, judged.targets, list(classes))
    return TaskResult(
        task,
        metrics,
        len(right),
        judged.bad,
        {"said": dict(zip(classes, said.tolist(), strict=True))},
        headline=("accuracy", "consistency") if "consistency" in further else ("accuracy",),
        shown=Shown(judged.strips, per_class, confusion),
    )


def _reading_words(predictor: Predictor) -> HeadConfig:
    head = head_of(predictor.model)
    if head.reads != "words":
        raise ConfigError("the model's head reads images alone; a statement needs one of words")
    return head


def _with_enough_pictures(part: list[Sample], head: HeadConfig, bad: list[str]) -> list[Sample]:
    """Those samples that have as many images as the head reads; the others are told in `bad`."""
    usable = []
    for sample in part:
        if len(sample.images) == head.pictures:
            usable.append(sample)
        else:
            bad.append(
                f"{sample.key}: it has {len(sample.images)} images, but the head reads "
                f"{head.pictures}"
            )
    return usable


def _show(
    shown: dict[bool, list[Example]],
    samples: Sequence[Sample],
    logits: Float[ndarray, "N K"],
    targets: Int[ndarray, " N"],
    head: HeadConfig,
) -> None:
    """Adds the first statements that were judged rightly and wrongly."""
    sure = probabilities(logits)
    for sample, row, target in zip(samples, sure, targets.tolist(), strict=True):
        said = int(row.argmax())
        cases = shown[said == target]
        if len(cases) < SHOWN:
            lines = (
                sample.text,
                f"said: {head.classes[said]} ({row[said]:.0%})",
                f"is: {head.classes[target]}",
            )
            cases.append(Example(lines, thumbnail(sample.image), right=said == target))
