"""Figures of training steps, and the cause, rank and samples of those that are not finite."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from coca.data.batch import Batch
from coca.train.distributed.parallel import GradientNorms
from coca.train.losses import Losses

Number = TypeVar("Number", Tensor, float)


@dataclass(frozen=True)
class StepFigures(Generic[Number]):
    """Figures of one step on one rank: tensors on the device, or numbers that the host has read."""

    step: int
    """Number of the step, from 1."""
    metrics: Mapping[str, Number]
    """Metrics by name, equal on all ranks: `loss`, its parts, and `grad_norm`."""
    shard_norms: Mapping[str, Number]
    """Norm of the rank's shard of each gradient, by parameter name."""
    culprits: bool
    """Whether the rank's images are not finite."""
    first: int
    """Global index of the rank's first sample."""
    last: int
    """Global index of the rank's last sample."""


def figures_of(
    step: int, batch: Batch, losses: Losses, norms: GradientNorms
) -> StepFigures[Tensor]:
    """Collect the figures of a step, which stay on the device."""
    images = batch.images
    return StepFigures(
        step=step,
        metrics={"loss": losses.total, **losses.parts, "grad_norm": norms.total},
        shard_norms=norms.shards,
        # Of cached features, on the host. Pixels are bytes there, which are always finite.
        culprits=images.is_floating_point()
        and not bool(images.sum(dtype=torch.float32).isfinite()),
        first=batch.start,
        last=batch.start + len(batch.keys) - 1,
    )


def read_figures(steps: Sequence[StepFigures[Tensor]]) -> list[StepFigures[float]]:
    """Read the figures of steps from the device in one transfer, for which the host waits."""
    tensors = [it for step in steps for it in (*step.metrics.values(), *step.shard_norms.values())]
    values = iter(torch.stack([it.float() for it in tensors]).tolist() if tensors else [])
    return [
        StepFigures(
            step=step.step,
            metrics={name: next(values) for name in step.metrics},
            shard_norms={name: next(values) for name in step.shard_norms},
            culprits=step.culprits,
            first=step.first,
            last=step.last,
        )
        for step in steps
    ]


def cause_of(ranks: Sequence[StepFigures[float]]) -> str:
    """Find the first non-finite loss or gradient in the figures of all ranks, in rank order."""
    metrics = ranks[0].metrics
    for name, value in metrics.items():
        if name not in ("loss", "grad_norm") and not math.isfinite(value):
            return name
    if not math.isfinite(metrics["loss"]):
        return "the loss"
    for figures in ranks:
        for name, norm in figures.shard_norms.items():
            if not math.isfinite(norm):
                return f"the gradient of {name}"
    return "the gradient norm"


def location_of(ranks: Sequence[StepFigures[float]]) -> str:
    """Describe the samples of the step, and the ranks if only some have non-finite images."""
    culprits = [rank for rank, figures in enumerate(ranks) if figures.culprits]
    named = 0 < len(culprits) < len(ranks)
    shown = [ranks[rank] for rank in culprits] if named else ranks
    numbers = f"rank {', '.join(map(str, culprits))}, " if named else ""
    return f"{numbers}samples {shown[0].first} to {shown[-1].last}"
