"""The learning rate over a run: a warm-up, then a decay, as one pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

from coca.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls; the defaults are the paper's (section 4.1)."""

    warmup: int | float = 0.02
    """Length of the linear rise: a whole number counts steps, a fraction below 1 is a share of
    the run."""
    decay: Literal["cosine", "linear", "constant"] = "linear"
    """Shape of the fall from the peak to the end of the run."""
    final_lr_fraction: float = 0.0
    """Where the fall ends, as a share of the peak; 0 to 1. `constant` does not fall."""

    def __post_init__(self) -> None:
        if isinstance(self.warmup, float) and not 0 <= self.warmup < 1:
            raise ConfigError(
                f"warmup {self.warmup} is neither a share of the run, at least 0 and below 1, "
                "nor a whole number of steps"
            )
        if self.warmup < 0:
            raise ConfigError(f"warmup must be at least 0 steps (got {self.warmup})")
        if not 0 <= self.final_lr_fraction <= 1:
            raise ConfigError(
                f"final_lr_fraction must lie between 0 and 1 (got {self.final_lr_fraction})"
            )


def warmup_steps(total: int, config: ScheduleConfig) -> int:
    """Number of the update that is the first at the peak, in a run of `total` updates."""
    if isinstance(config.warmup, int):
        return config.warmup
    return int(config.warmup * total)


def lr_at(step: int, total: int, config: ScheduleConfig) -> float:
    """Factor on the peak learning rate for update number `step`; 0 to 1.

    Updates are counted from 0, so the last is `total - 1`. The first is already above 0 and the
    last still above the final value, which is reached at `total`: no update is wasted on a
    learning rate of 0.
    """
    warmup = warmup_steps(total, config)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    if config.decay == "constant":
        return 1.0
    remaining = 1 - progress
    if config.decay == "cosine":
        remaining = (1 + math.cos(math.pi * progress)) / 2
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * remaining
