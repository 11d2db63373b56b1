"""Configuration of the training loop."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.train.distributed.parallel import Kind
from coca.train.optim.ema import EmaConfig
from coca.train.optim.optimizer import OptimizerConfig
from coca.train.optim.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Length, precision, parallelism, logging and checkpoints of a run."""

    steps: PositiveInt
    """Number of training steps of the whole run, one batch each."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and its hyperparameters."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate schedule and patch dropout schedule."""
    ema: EmaConfig | None = None
    """Exponential moving average of the weights, which becomes the finished model. null: none."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """`bf16` runs matrix products in half precision (autocast); weights stay fp32. `auto` is bf16
    where rank 0's device multiplies it faster than fp32, else fp32."""
    deterministic: bool = False
    """Use deterministic algorithms only, so that a run on CUDA repeats and resumes bit for bit;
    slower. Operations without a deterministic algorithm raise. Runs on a CPU repeat without it."""
    parallel: Kind = "auto"
    """Distribution over several processes: `ddp` replicates the model; `fsdp` shards it, with
    gradients and optimizer state. `auto` is `ddp` for several processes."""
    micro_batch: PositiveInt | None = None
    """Pairs per micro-batch on each rank. The result equals that of the whole batch, with less
    memory. null: the whole batch of the rank."""
    grad_clip: PositiveFloat | None = 1.0
    """Maximum norm of the gradient over all parameters; larger gradients are scaled down. null: no
    limit."""
    log_every: PositiveInt = 10
    """Steps between two rows of metrics, which are means over these steps."""
    save_every: PositiveInt = 500
    """Steps between two checkpoints; one more is written at the end."""
    keep: PositiveInt = 2
    """Number of newest checkpoints to keep on disk."""
    max_bad_steps: PositiveInt = 10
    """Maximum number of consecutive steps with a non-finite loss or gradient before the run
    fails."""
    trackers: tuple[str, ...] = ("jsonl",)
    """Experiment trackers: any of `jsonl`, `tensorboard`, or a plugin's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.schedule.warmup, int) and self.schedule.warmup >= self.steps:
            raise ConfigError(
                f"schedule.warmup {self.schedule.warmup} must be below steps {self.steps}; "
                "a fraction such as 0.02 fits a run of any length"
            )
