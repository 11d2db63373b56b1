"""Exponential moving average (EMA) of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from coca.core.config.frozen_config import Config
from coca.model.losses.collectives import local_shard


class EmaConfig(Config):
    """Decay of the average; the paper states it for fine-tuning only (its Table 9)."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """Decay per step, at least 0 and below 1. The average covers about 1 / (1 - decay) steps:
    10,000 by default, which needs a run several times as long."""
    warmup: bool = True
    """Lower decay at first: at most (1 + t) / (10 + t) at step t, from 1. So the random initial
    weights lose their influence in a run of any length."""

    def decay_at(self, step: int) -> float:
        """Compute the decay of step number `step`, counted from 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class Ema:
    """Averages of all parameters of a model in fp32, initialized from its weights.

    Shard the model before. Each rank then averages its own shards. Frozen parameters are included;
    their average equals their value. The statistics of batch norms are averaged as well, since
    those of the last step fit the last step's weights.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        self.config = config
        # Lists for foreach operations: one call over all tensors is far faster than one per tensor.
        named = {**dict(model.named_parameters()), **_statistics(model)}
        self._names, self._weights = list(named), list(named.values())
        self._averages = [w.detach().to(torch.float32, copy=True) for w in self._weights]

    @torch.no_grad()
    def reset(self) -> None:
        """Set the averages to the current weights."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            local_shard(average).copy_(local_shard(weight))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages with the weights after step number `step`, counted from 1."""
        weights = [local_shard(weight).float() for weight in self._weights]
        averages = [local_shard(average) for average in self._averages]
        torch._foreach_lerp_(averages, weights, 1 - self.config.decay_at(step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set the weights to their averages within the block; each rank changes its own shards."""
        with torch.no_grad():
            before = [local_shard(weight).clone() for weight in self._weights]
            for weight, average in zip(self._weights, self._averages, strict=True):
                local_shard(weight).copy_(local_shard(average))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(self._weights, before, strict=True):
                    local_shard(weight).copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by parameter name, as views."""
        return dict(zip(self._names, self._averages, strict=True))


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running means and variances of batch norms by name."""
    return {
        f"{prefix}.{name}".lstrip("."): buffer
        for prefix, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
