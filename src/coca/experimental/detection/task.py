"""Object detection, scored by COCO average precision."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coca.core.errors import DataError
from coca.core.extras import require
from coca.data.sample import Sample
from coca.experimental.detection.scores import FoundBoxes, TrueBoxes, detection_scores
from coca.experimental.detection.source import BOXES
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import require_coca
from coca.processing.image_file import opened, upright_size
from coca.tasks.task import (
    PREFLIGHT,
    TASKS,
    Example,
    ImageRow,
    ReportSamples,
    TaskConfig,
    TaskResult,
    read_all_metadata,
    read_samples,
    thumbnail,
)

if TYPE_CHECKING:
    from coca.experimental.detection.detecting import Detection

SHOWN = 8
"""Number of images in a report."""

SURE = 0.3
"""Minimum score of a drawn box, the default of `coca detect`."""

IMAGE_PX = 288
"""Longer side of a drawn image, pixels: labels must stay readable."""


@TASKS.register("detection")
def detection(predictor: Predictor, config: TaskConfig) -> TaskResult:
    """Compute COCO average precision on a source of kind `coco_instances`.

    The predictor's folder must contain a detector.
    """
    require("pycocotools", extra="detection")
    # The detection models of torchvision take as long to import as torch.
    from coca.experimental.detection.detecting import load_detector

    detector = load_detector(
        predictor.source, device=str(require_coca(predictor).model.log_scale.device)
    )
    samples, bad = read_samples(config.data, limit=config.limit)
    numbers = _class_numbers(samples, detector.classes, config.data.title)
    found = detector.detect([sample.image for sample in samples], threshold=0.0)
    truth = [_true(sample, numbers) for sample in samples]
    if not any(len(one.boxes) for one in truth):
        raise DataError(f"{config.data.title} has no object", reason="no_boxes")
    predicted = [_found(*pair, numbers) for pair in zip(samples, found, strict=True)]
    scores, each = detection_scores(truth, predicted, len(numbers))
    by_class = dict(zip(detector.classes, each, strict=True))
    details = {"classes": len(numbers), "AP_by_class": by_class}
    shown = ImageRow(f"Found, from {SURE:.0%} on", _examples(samples, found))
    return TaskResult(
        "detection",
        scores,
        len(samples),
        bad,
        details,
        headline=("AP", "AP50"),
        report_samples=ReportSamples((shown,)),
    )


@PREFLIGHT.register("detection")
def check(predictor: Predictor, config: TaskConfig) -> None:
    """Check that the model is a detector, and that the data have boxes of its classes."""
    require("pycocotools", extra="detection")
    from coca.experimental.detection.detecting import load_detector

    classes = load_detector(predictor.source, device="cpu").classes
    _class_numbers(read_all_metadata(config.data, limit=config.limit), classes, config.data.title)


def _class_numbers(samples: Sequence[Sample], classes: Sequence[str], title: str) -> dict[str, int]:
    if any(BOXES not in sample.metadata for sample in samples):
        raise DataError(f"{title} has no boxes; use kind: coco_instances", reason="no_boxes")
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := {label for sample in samples for label in sample.labels} - numbers.keys():
        raise DataError(
            f"{title} contains {min(unknown)!r}, which the detector does not know; it finds "
            f"{', '.join(classes)}",
            reason="unknown_label",
        )
    return numbers


def _examples(
    samples: Sequence[Sample], found: "Sequence[Sequence[Detection]]"
) -> tuple[Example, ...]:
    """Draw the detections on images spread over the set, with detected and true labels."""
    from coca.experimental.detection.detecting import drawn

    examples = []
    for row in range(0, len(samples), -(-len(samples) // SHOWN)):
        sure = [one for one in found[row] if one.score >= SURE]
        lines = (
            f"found: {_listed(one.label for one in sure)}",
            f"there: {_listed(one['name'] for one in samples[row].metadata[BOXES])}",
        )
        image = thumbnail(drawn(samples[row].image, sure), IMAGE_PX)
        examples.append(Example(lines, image))
    return tuple(examples)


def _listed(names: Iterable[str]) -> str:
    counts = sorted(Counter(names).items())
    return ", ".join(name if n == 1 else f"{n} {name}" for name, n in counts) or "nothing"


def _true(sample: Sample, numbers: dict[str, int]) -> TrueBoxes:
    objects = sample.metadata[BOXES]
    return TrueBoxes(
        boxes=np.array([one["box"] for one in objects], float).reshape(-1, 4),
        labels=np.array([numbers[one["name"]] for one in objects], int),
        areas=np.array([one["area"] for one in objects], float),
        crowd=np.array([one["crowd"] for one in objects], bool),
    )


def _found(sample: Sample, found: "list[Detection]", numbers: dict[str, int]) -> FoundBoxes:
    """Return the detections in pixels of the listed size, which the file need not have."""
    with opened(sample.image, sample.key) as (image, _):
        width, height = upright_size(image)
    scale = sample.metadata["width"] / width, sample.metadata["height"] / height
    edges = np.array([one.box for one in found], float).reshape(-1, 4) * (scale * 2)
    return FoundBoxes(
        boxes=np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1),
        labels=np.array([numbers[one.label] for one in found], int),
        scores=np.array([one.score for one in found], float),
    )
