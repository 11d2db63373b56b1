"""Schedules as pure functions of the step: learning rate and patch dropout."""

import math
from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import Field, NonNegativeInt, model_validator
from torch import nn

from coca.core.config.frozen_config import Config, Fraction
from coca.core.errors import ConfigError
from coca.core.registry import Registry
from coca.model.encoders.encoder import ImageEncoder


class ScheduleConfig(Config):
    """Learning rate and patch dropout schedule; the defaults are the paper's (section 4.1)."""

    warmup: NonNegativeInt | Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Length of the linear warmup: an integer is a number of steps, a number below 1 is a fraction
    of the run."""
    decay: str = "linear"
    """A registered schedule, the shape of the learning rate decay after the warmup: `cosine`,
    `linear`, `constant`, or a plugin's."""
    final_lr_fraction: Fraction = 0.0
    """Final learning rate as a fraction of the peak; 0 to 1. Unused with `constant`."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of each image's patches to drop, 0 to below 1, sampled independently per image. At
    0.5 the image encoder does half the work (FLIP, arXiv 2212.00794); the paper has none."""
    unmasked_tail: Fraction = 0.02
    """Fraction of the run, at its end, without patch dropout, as at inference; 0 to 1."""

    @model_validator(mode="after")
    def _check_rules(self) -> "ScheduleConfig":
        SCHEDULES.get(self.decay)
        return self


Decay: TypeAlias = Callable[[float], float]
"""Shape of a decay: (progress after the warmup, 0 to 1) -> learning rate between the final (0) and
the peak (1)."""

SCHEDULES: Registry[Decay] = Registry("learning rate schedule", "schedules")


@SCHEDULES.register("cosine")
def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register("linear")
def _linear(progress: float) -> float:
    return 1 - progress


@SCHEDULES.register("constant")
def _constant(progress: float) -> float:
    return 1.0


def warmup_steps(total: int, config: ScheduleConfig) -> int:
    """Compute the number of warmup steps in a run of `total` updates."""
    if isinstance(config.warmup, int):
        return config.warmup
    return int(config.warmup * total)


def lr_at(step: int, total: int, config: ScheduleConfig) -> float:
    """Compute the factor on the peak learning rate for update number `step`; 0 to 1.

    Updates are counted from 0, so the last is `total - 1`. The first factor is above 0 and the last
    above the final value, which is reached at `total`. So no update has a learning rate of 0.
    """
    warmup = warmup_steps(total, config)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    remaining = SCHEDULES.get(config.decay)(progress)
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * remaining


def patch_dropout_at(step: int, total: int, config: ScheduleConfig) -> float:
    """Compute the patch dropout of update number `step`; 0 in the tail of the run.

    Updates are counted from 0. A tail above 0 has at least one update.
    """
    tail = max(1, round(config.unmasked_tail * total)) if config.unmasked_tail else 0
    return config.patch_dropout if step < total - tail else 0.0


def set_patch_dropout(model: nn.Module, fraction: float) -> None:
    """Set the patch dropout of the model's image encoder in training."""
    encoders = [module for module in model.modules() if isinstance(module, ImageEncoder)]
    if fraction and not encoders:
        raise ConfigError(
            f"patch_dropout is {fraction}, but {type(model).__name__} has no image encoder that "
            "can leave out patches; set it to 0"
        )
    for encoder in encoders:
        encoder.set_patch_dropout(fraction)
