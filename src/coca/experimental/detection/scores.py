"""Detection metrics: COCO average precision, computed by `pycocotools` (extra `detection`).

Dimensions: N ground-truth boxes and M predicted boxes of an image, K classes.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class TrueBoxes:
    """Ground-truth boxes of an image."""

    boxes: Float[ndarray, "N 4"]
    """Left, top, width, height, pixels."""
    labels: Int[ndarray, " N"]
    """Class indices, from 0."""
    areas: Float[ndarray, " N"]
    """Areas of the segmentation masks, square pixels; small is below 32², large above 96²."""
    crowd: Bool[ndarray, " N"]
    """Whether a box is a crowd region; predictions in it are ignored."""


@dataclass(frozen=True)
class FoundBoxes:
    """Predicted boxes of an image."""

    boxes: Float[ndarray, "M 4"]
    """Left, top, width, height, pixels."""
    labels: Int[ndarray, " M"]
    """Class indices, from 0."""
    scores: Float[ndarray, " M"]
    """Confidence scores; only their order matters."""


def detection_scores(
    truth: Sequence[TrueBoxes], found: Sequence[FoundBoxes], classes: int
) -> tuple[dict[str, float], list[float | None]]:
    """Compute mean average precision (mAP) over classes and IoU thresholds, and AP per class.

    `AP` is the mean over IoU thresholds .5, .55 to .95; `AP50` and `AP75` use one threshold.
    `AP_small`, `AP_medium` and `AP_large` count objects of one size and are absent without any.

    Returns:
        Scores by name, 0 to 1, and the AP of each class, None without ground truth.

    Raises:
        ValueError: The lists differ in length, or there is no ground-truth box.
        ModuleNotFoundError: pycocotools is not installed.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} images have true boxes, {len(found)} found ones")
    if not any(len(image.boxes) for image in truth):
        raise ValueError("no image has a true box, so there is nothing to find")
    from pycocotools.cocoeval import COCOeval

    # pycocotools always prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        right = _as_coco(_true_notes(truth), len(truth), classes)
        predicted = _as_coco(_found_notes(found), len(truth), classes)
        evaluation = COCOeval(right, predicted, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = {
        name: float(value)
        for name, value in zip(_NAMES, evaluation.stats[: len(_NAMES)], strict=True)
        if value >= 0
    }
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, K)
    each = [precision[:, :, number] for number in range(classes)]
    return scores, [float(one.mean()) if one.min() >= 0 else None for one in each]


def _as_coco(notes: list[dict[str, object]], images: int, classes: int) -> object:
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": number} for number in range(images)],
        "annotations": notes,
        "categories": [{"id": number} for number in range(classes)],
    }
    made.createIndex()
    return made


def _true_notes(truth: Sequence[TrueBoxes]) -> list[dict[str, object]]:
    rows = [
        (image, box, label, area, crowd)
        for image, one in enumerate(truth)
        for box, label, area, crowd in zip(one.boxes, one.labels, one.areas, one.crowd, strict=True)
    ]
    return [
        {
            # pycocotools takes id 0 for no match.
            "id": number,
            "image_id": image,
            "category_id": int(label),
            "bbox": np.asarray(box, float).tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for number, (image, box, label, area, crowd) in enumerate(rows, start=1)
    ]


def _found_notes(found: Sequence[FoundBoxes]) -> list[dict[str, object]]:
    rows = [
        (image, box, label, score)
        for image, one in enumerate(found)
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": int(label),
            "bbox": np.asarray(box, float).tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
            "score": float(score),
        }
        for number, (image, box, label, score) in enumerate(rows, start=1)
    ]
