"""What a detector minimises: FCOS's three losses, over the boxes that belong to a batch's keys.

Dimensions: N boxes of an image, S side of the model's square input, pixels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coca.data.sample import Batch
from coca.model.detection.detector import Boxes, Detector
from coca.train.objective import Losses


class Target(NamedTuple):
    """The objects of an image of any size."""

    boxes: Float[Tensor, "N 4"]
    """Left, top, right, bottom, as shares of the image's sides, 0 to 1."""
    labels: Int[Tensor, " N"]
    """Numbers of their classes."""


class DetectionObjective:
    """Classes by focal loss, boxes by generalised overlap, centres by cross entropy.

    A batch carries images alone, so boxes are looked up by key. They are shares of the image,
    which holds as long as images are stretched to the square and nothing moves in them.

    Args:
        targets: The objects of each sample, by key.
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    def __call__(self, model: Detector, batch: Batch) -> Losses:
        """The sum of the three losses, and each of them."""
        side = batch.images.shape[-1]
        wanted = [self._boxes(key, side, batch.images.device) for key in batch.keys]
        parts = model(list(batch.images), wanted)
        total = torch.stack(list(parts.values())).sum()
        return Losses(total, {name: loss.detach() for name, loss in parts.items()})

    def constrain_(self, model: Detector) -> None:
        """Nothing has a range here."""

    def _boxes(self, key: str, side: int, device: torch.device) -> Boxes:
        target = self._targets[key]
        return {
            "boxes": (target.boxes * side).to(device),
            "labels": target.labels.to(device),
        }
