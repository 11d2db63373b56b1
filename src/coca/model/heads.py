"""Heads for downstream problems that sit on top of a pooled state."""

from jaxtyping import Float
from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """A linear layer from the pooled image to class logits."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B classes"]:
        return self.linear(pooled)
