"""Average precision of boxes, as COCO counts it: by `pycocotools` itself (extra `detection`).

Dimensions: N true boxes and M found boxes of an image, K classes.
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
    """The objects of an image."""

    boxes: Float[ndarray, "N 4"]
    """Left, top, width, height, pixels."""
    labels: Int[ndarray, " N"]
    """Numbers of their classes, from 0."""
    areas: Float[ndarray, " N"]
    """Square pixels; COCO counts those of outlines. Below 32 squared is small, above 96 large."""
    crowd: Bool[ndarray, " N"]
    """Whether a box is around many; what is found in it is neither right nor wrong."""


@dataclass(frozen=True)
class FoundBoxes:
    """What a model says of an image."""

    boxes: Float[ndarray, "M 4"]
    """Left, top, width, height, pixels."""
    labels: Int[ndarray, " M"]
    """Numbers of classes, from 0."""
    scores: Float[ndarray, " M"]
    """How sure it is; only their order counts."""


def detection_scores(
    truth: Sequence[TrueBoxes], found: Sequence[FoundBoxes], classes: int
) -> tuple[dict[str, float], list[float | None]]:
    """Mean average precision over classes and overlaps, and that of each class.

    `AP` is the mean over overlaps of .5, .55 to .95, `AP50` and `AP75` at one of them; `AP_small`,
    `AP_medium` and `AP_large` count objects of one size and are left out where there are none.

    Args:
        truth: Of each image.
        found: Of each image, in the same order.
        classes: How many there are; one without any true box counts for nothing.

    Returns:
        Scores by name, 0 to 1, and AP for each class, None where no box is true.

    Raises:
        ValueError: The lists differ in length, or no box is true.
        ModuleNotFoundError: pycocotools is not installed.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(truth)} images have true boxes, {len(found)} found ones")
    if not any(len(picture.boxes) for picture in truth):
        raise ValueError("no image has a true box, so there is nothing to find")
    from pycocotools.cocoeval import COCOeval

    # It tells of its progress on the screen, always.
    with contextlib.redirect_stdout(io.StringIO()):
        right = _as_coco(_true_notes(truth), len(truth), classes)
        said = _as_coco(_found_notes(found), len(truth), classes)
        judged = COCOeval(right, said, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    scores = {
        name: float(value)
        for name, value in zip(_NAMES, judged.stats[: len(_NAMES)], strict=True)
        if value >= 0
    }
    precision = judged.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, K)
    each = [precision[:, :, number] for number in range(classes)]
    return scores, [float(one.mean()) if one.min() >= 0 else None for one in each]


def _as_coco(notes: list[dict[str, object]], pictures: int, classes: int) -> object:
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": number} for number in range(pictures)],
        "annotations": notes,
        "categories": [{"id": number} for number in range(classes)],
    }
    made.createIndex()
    return made


def _true_notes(truth: Sequence[TrueBoxes]) -> list[dict[str, object]]:
    rows = [
        (picture, box, label, area, crowd)
        for picture, one in enumerate(truth)
        for box, label, area, crowd in zip(one.boxes, one.labels, one.areas, one.crowd, strict=True)
    ]
    return [
        {
            # Number 0 would be taken for no match.
            "id": number,
            "image_id": picture,
            "category_id": int(label),
            "bbox": np.asarray(box, float).tolist(),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for number, (picture, box, label, area, crowd) in enumerate(rows, start=1)
    ]


def _found_notes(found: Sequence[FoundBoxes]) -> list[dict[str, object]]:
    rows = [
        (picture, box, label, score)
        for picture, one in enumerate(found)
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]
    return [
        {
            "id": number,
            "image_id": picture,
            "category_id": int(label),
            "bbox": np.asarray(box, float).tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
            "score": float(score),
        }
        for number, (picture, box, label, score) in enumerate(rows, start=1)
    ]
