"""Training objective of a detector: the three losses of FCOS, with boxes looked up by key.

Dimensions: N boxes of an image.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coca.data.batch import Batch
from coca.experimental.detection.detector import Boxes, Detector
from coca.train.losses import Losses


class Target(NamedTuple):
    """Ground-truth objects of an image of any size."""

    boxes: Float[Tensor, "N 4"]
    """Left, top, right, bottom as fractions of the image's sides, 0 to 1."""
    labels: Int[Tensor, " N"]
    """Class indices."""


class DetectionObjective:
    """Focal loss for classes, generalized IoU loss for boxes, cross entropy for centerness.

    A batch has images only, so boxes are looked up by key. They are fractions of the image's sides.
    So images must be resized to the square without cropping or geometric augmentation.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    def __call__(self, model: Detector, batch: Batch) -> Losses:
        """Compute the sum of the three losses, and each loss."""
        side = batch.images.shape[-1]
        wanted = [self._boxes(key, side, batch.images.device) for key in batch.keys]
        parts = model(list(batch.images), wanted)
        total = torch.stack(list(parts.values())).sum()
        return Losses(total, {name: loss.detach() for name, loss in parts.items()})

    def constrain_(self, model: Detector) -> None:
        """Do nothing: no parameter has a range."""

    def _boxes(self, key: str, side: int, device: torch.device) -> Boxes:
        target = self._targets[key]
        return {"boxes": (target.boxes * side).to(device), "labels": target.labels.to(device)}
