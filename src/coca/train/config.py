"""How a run trains: everything about the loop that a recipe can set."""

from dataclasses import dataclass, field
from typing import Literal

from coca.core.errors import ConfigError
from coca.train.ema import EmaConfig
from coca.train.optimizer import OptimizerConfig
from coca.train.parallel import Kind
from coca.train.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how to train, and how often to tell and to save."""

    steps: int
    """Batches of the whole run."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """What turns gradients into updates."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate rises and falls, and how many patches are left out meanwhile."""
    ema: EmaConfig | None = None
    """Average the weights over the run; the finished model is made of the averages. null: not."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs matrix products in half precision (autocast); weights stay fp32."""
    deterministic: bool = False
    """Use deterministic algorithms only, so that a run on CUDA repeats and resumes bit for bit;
    slower. What has none there is refused. On a CPU runs repeat without it."""
    parallel: Kind = "auto"
    """How several processes share the model: `ddp` has it whole on each, `fsdp` in pieces, with
    its gradients and the optimizer's state. `auto` is `ddp` where there are several."""
    micro_batch: int | None = None
    """Pairs at a time on each rank; the result stays that of the whole batch, for less memory.
    null: the whole share of the rank."""
    grad_clip: float | None = 1.0
    """Longest gradient over all parameters; longer ones are scaled down. null: no limit."""
    log_every: int = 10
    """Steps between two rows of figures, which are means over these steps."""
    save_every: int = 500
    """Steps between two checkpoints; one more is written at the end."""
    keep: int = 2
    """Newest checkpoints that stay on disk."""
    max_bad_steps: int = 10
    """Steps in a row whose loss or gradient is not finite, after which the run gives up."""
    trackers: tuple[str, ...] = ("jsonl",)
    """Where figures go: any of `jsonl`, `tensorboard`, or a plugin's."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 (got {getattr(self, name)})")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(
                f"micro_batch must be at least 1 pair, or null for all (got {self.micro_batch})"
            )
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ConfigError(
                f"grad_clip must be above 0, or null for no limit (got {self.grad_clip})"
            )
        if isinstance(self.schedule.warmup, int) and self.schedule.warmup >= self.steps:
            raise ConfigError(
                f"schedule.warmup {self.schedule.warmup} must be below steps {self.steps}; "
                "a fraction such as 0.02 fits a run of any length"
            )
