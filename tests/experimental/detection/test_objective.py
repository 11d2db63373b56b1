from typing import Any

import torch
from torch import nn

from coca.data.batch import Batch
from coca.experimental.detection.detector import Detector
from coca.experimental.detection.objective import DetectionObjective, Target


class Recorder(Detector):
    """A detector without parts, which records its inputs."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, images: Any, targets: Any) -> dict[str, torch.Tensor]:
        self.images, self.targets = images, targets
        return {"one": torch.tensor(1.0, requires_grad=True), "two": torch.tensor(2.0)}


def batch(*keys: str, side: int = 8) -> Batch:
    count = len(keys)
    tokens = torch.zeros(count, 1, dtype=torch.int64)
    return Batch(images=torch.zeros(count, 3, side, side), tokens=tokens, keys=keys, start=0)


TARGETS = {
    "a": Target(torch.tensor([[0.0, 0.25, 0.5, 1.0]]), torch.tensor([3])),
    "b": Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
}


def test_boxes_are_found_by_key_and_scaled_to_the_images() -> None:
    model = Recorder()
    losses = DetectionObjective(TARGETS)(model, batch("b", "a", side=16))
    none, one = model.targets
    assert none["boxes"].shape == (0, 4)
    assert one["boxes"].tolist() == [[0.0, 4.0, 8.0, 16.0]]
    assert one["labels"].tolist() == [3]
    assert len(model.images) == 2
    assert float(losses.total.detach()) == 3.0
    assert {name: float(part) for name, part in losses.parts.items()} == {"one": 1.0, "two": 2.0}
    assert not any(part.requires_grad for part in losses.parts.values())
