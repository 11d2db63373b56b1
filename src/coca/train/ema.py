"""The exponential moving average of the weights: what a finished model is better made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from coca.core.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """How long the average remembers; the paper states it for fine-tuning only (its Table 9)."""

    decay: float = 0.9999
    """Share of the average that each update keeps, at least 0 and below 1. It remembers about
    1 / (1 - decay) updates: 10,000 by default, which asks for a run of several times that."""
    warmup: bool = True
    """Remember less at first: update t, from 1, keeps at most (1 + t) / (10 + t), so that the
    random weights of the start are forgotten in a run of any length."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay must be at least 0 and below 1 (got {self.decay})")

    def decay_at(self, update: int) -> float:
        """The share that update number `update` keeps; they are counted from 1."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay


class Ema:
    """Averages of all parameters of a model, in fp32, that begin at its weights of now.

    Where the model is shared out over ranks, which must be done before, each rank averages its own
    pieces. Frozen parameters are listed as well: their average is themselves.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.config = config
        # Lists, since one call over all tensors costs far less than one for each.
        self._names = [name for name, _ in model.named_parameters()]
        self._weights = list(model.parameters())
        self._averages = [w.detach().to(torch.float32, copy=True) for w in self._weights]

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take in the weights of now; `number` counts the updates of the run from 1."""
        weights = [_local(weight).float() for weight in self._weights]
        averages = [_local(average) for average in self._averages]
        torch._foreach_lerp_(averages, weights, 1 - self.config.decay_at(number))

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters, as views."""
        return dict(zip(self._names, self._averages, strict=True))

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the averages to what `tensors` gave, or to weights, from where they then go on.

        Raises:
            ModelError: A parameter has no average among them, or the other way round.
        """
        if different := sorted({*self._names} ^ tensors.keys()):
            raise ModelError(
                f"the checkpoint averages another model: {len(different)} tensors stand in only "
                f"one of the two, such as {different[0]}"
            )
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(tensors[name])


def _local(tensor: Tensor) -> Tensor:
    """This rank's piece of a tensor that is shared out, as a view; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
