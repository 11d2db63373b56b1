"""The training loop: steps, figures, checkpoints; stopped at any moment, it goes on exactly."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from coca.core.config import to_dict
from coca.core.errors import CocaError, ConfigError, DataError, StorageError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Batch
from coca.train.checkpoint import load_newest, remove_unfinished, save_checkpoint
from coca.train.figures import RunFigures
from coca.train.objective import Losses, Objective
from coca.train.optimizer import OptimizerConfig, make_optimizer
from coca.train.resume import require_same_run, run_identity
from coca.train.schedule import ScheduleConfig, lr_at
from coca.train.state import (
    model_tensors,
    optimizer_state,
    random_state,
    restore_model,
    restore_optimizer,
    restore_random,
)
from coca.train.stopping import stop_on_signal
from coca.train.tracker import Tracker

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and how to train, and how often to tell and to save."""

    steps: int
    """Batches of the whole run."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """What turns gradients into updates."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate rises and falls."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs matrix products in half precision (autocast); weights stay fp32."""
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
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ConfigError(
                f"grad_clip must be above 0, or null for no limit (got {self.grad_clip})"
            )
        if isinstance(self.schedule.warmup, int) and self.schedule.warmup >= self.steps:
            raise ConfigError(
                f"schedule.warmup {self.schedule.warmup} must be below steps {self.steps}; "
                "a fraction such as 0.02 fits a run of any length"
            )


@runtime_checkable
class BatchStream(Protocol):
    """What a trainer needs of a loader: endless batches from any place of one fixed order."""

    fingerprint: str
    """Equal for equal data in equal order."""
    state: int
    """Samples up to the end of the last batch handed out; set it, and `iter` goes on there."""

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TrainResult:
    """How a call of `fit` ended."""

    step: int
    """Steps of the run so far, those of earlier calls included."""
    interrupted: bool
    """Whether a signal ended it before its last step."""
    figures: dict[str, float]
    """The last row that was logged; empty if there was none."""


class Trainer(Generic[ModelT]):
    """Trains one model in one folder.

    If the folder holds a checkpoint, the run goes on from it. On one machine in fp32 its weights
    then become those of a run that was never stopped, bit for bit.

    Example:
        >>> trainer = Trainer(model, CoCaObjective(LossConfig()), loader=loader,
        ...     config=TrainConfig(steps=1000), run_folder="runs/first")  # doctest: +SKIP
        >>> trainer.fit().figures["loss"]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: ModelT,
        objective: Objective[ModelT],
        *,
        loader: BatchStream,
        config: TrainConfig,
        run_folder: str | Path,
        trackers: Sequence[Tracker] = (),
        device: str | torch.device = "auto",
    ) -> None:
        """Move the model to its device and make its optimiser; nothing is read or written.

        Args:
            model: Trained in place; has a `config`, which a resumed run must share.
            objective: What a step minimises.
            loader: The data.
            config: Length, pace and precision.
            run_folder: Where checkpoints are kept and looked for; made if needed.
            trackers: Where figures go, see `make_trackers`.
            device: A torch device; `auto` takes an accelerator if there is one.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model: ModelT = model.to(self.device)
        self.objective = objective
        self.loader = loader
        self.config = config
        self.run_folder = Path(run_folder)
        self.trackers = tuple(trackers)
        self.optimizer = make_optimizer(model, config.optimizer)
        self.step = 0
        self._figures = RunFigures()
        self._logged = self._saved = 0
        self._checkpoint: Path | None = None
        self._looked_for_checkpoint = False

    def fit(self, progress: ProgressMaker = silent) -> TrainResult:
        """Train to the last step, or until a signal asks to stop; save in either case.

        SIGINT and SIGTERM let the step finish first; a second one aborts at once. Called again
        after an error, it goes on from memory.

        Raises:
            ConfigError: The folder's run had another model, other data or another optimiser.
            ModelError: No checkpoint in the folder is whole.
            DataError: The data cannot be read further; a checkpoint is written first.
            StorageError: A checkpoint or row cannot be written; older checkpoints stand.
            CocaError: Loss or gradient was not finite for `max_bad_steps` steps in a row.
        """
        self._resume()
        title = f"training from step {self.step}" if self.step else "training"
        try:
            for tracker in self.trackers:
                tracker.rewind(self._logged)
            with stop_on_signal() as stop, progress(title, self._steps_left) as bar:
                self.model.train()
                self._figures.start_clock()
                self._keep_up()
                for batch in self._batches():
                    loss = self._train_on(batch)
                    bar.advance(1, loss=loss, pairs_per_s=self._figures.pairs_per_s)
                    self._keep_up()
                    if stop.requested:
                        break
                self._save()
        except DataError:
            self._save()
            raise
        finally:
            for tracker in self.trackers:
                tracker.close()
        return TrainResult(self.step, self._steps_left > 0, dict(self._figures.last_row))

    @property
    def _steps_left(self) -> int:
        return self.config.steps - self.step

    def _batches(self) -> Iterator[Batch]:
        # Nothing may be drawn for a run that is done: a worker would start for it.
        if self._steps_left:
            for batch in self.loader:
                yield batch
                if not self._steps_left:
                    return

    def _train_on(self, batch: Batch) -> float:
        """One update; returns the loss, which may not be finite: the update is skipped then."""
        batch = batch.to(self.device)
        lr = self.config.optimizer.lr * lr_at(self.step, self.config.steps, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            losses = self.objective(self.model, batch)
        losses.total.backward()
        gradients = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in gradients if p.grad is not None])
        figures = _to_host(losses, norm)
        self.step += 1
        if self._figures.add(figures, pairs=len(batch.keys)):
            # Not earlier: a norm that is not finite would spoil every gradient, and with that
            # the trace to its cause.
            if self.config.grad_clip is not None:
                nn.utils.clip_grads_with_norm_(gradients, self.config.grad_clip, norm)
            self.optimizer.step()
            self.objective.constrain_(self.model)
        else:
            self._skip(batch, figures)
        return figures["loss"]

    def _skip(self, batch: Batch, figures: Mapping[str, float]) -> None:
        """Name the cause of a step that makes no update, and give up after too many."""
        cause = self._name_cause(figures)
        logger.warning(
            "step %s skipped: %s is not finite (samples %s to %s)",
            self.step,
            cause,
            batch.start,
            batch.start + len(batch.keys) - 1,
        )
        in_a_row = self._figures.bad_in_a_row
        if in_a_row >= self.config.max_bad_steps:
            raise CocaError(
                f"{in_a_row} steps in a row were not finite, last step {self.step} by "
                f"{cause}; the last good checkpoint {self._kept()}; a lower optimizer.lr may help"
            )

    def _name_cause(self, figures: Mapping[str, float]) -> str:
        for name, value in figures.items():
            if name not in ("loss", "grad_norm") and not math.isfinite(value):
                return name
        if not math.isfinite(figures["loss"]):
            return "the loss"
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                return f"the gradient of {name}"
        return "the length of the gradient"

    def _keep_up(self) -> None:
        """Log and save what is due at this step and, after a failure, still to be done."""
        last = not self._steps_left
        if (last or self.step % self.config.log_every == 0) and self._logged < self.step:
            row = self._figures.row(lr=self.optimizer.param_groups[0]["lr"])
            for tracker in self.trackers:
                tracker.log(self.step, row)
            self._figures.begin_row()
            self._logged = self.step
        if last or self.step % self.config.save_every == 0:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, unless there is nothing new to keep."""
        if self.step == self._saved:
            return
        tensors, values = optimizer_state(self.model, self.optimizer)
        state = {
            "run": self._identity(),
            "samples_seen": self.loader.state,
            "optimizer": values,
            "figures": self._figures.state(),
            "random": random_state(self.device),
        }
        try:
            folder = save_checkpoint(
                self.run_folder,
                self.step,
                model=model_tensors(self.model),
                optimizer=tensors,
                state=state,
                keep=self.config.keep,
            )
        except StorageError as error:
            raise StorageError(f"{error}; the last good checkpoint {self._kept()}") from error
        self._checkpoint, self._saved = folder, self.step

    def _kept(self) -> str:
        return "does not exist yet" if self._checkpoint is None else f"is {self._checkpoint}"

    def _resume(self) -> None:
        """Go on from the folder's newest checkpoint; only once, since memory is newer later."""
        if self._looked_for_checkpoint:
            return
        remove_unfinished(self.run_folder)
        checkpoint = load_newest(self.run_folder)
        if checkpoint is not None:
            require_same_run(checkpoint, self._identity())
            state = checkpoint.state
            restore_model(self.model, checkpoint.model)
            restore_optimizer(self.model, self.optimizer, checkpoint.optimizer, state["optimizer"])
            self.loader.state = state["samples_seen"]
            self.step = checkpoint.step
            self._figures.restore(state["figures"])
            self._logged = self._saved = checkpoint.step
            self._checkpoint = checkpoint.folder
            restore_random(state["random"], self.device)
            logger.info("going on from %s", checkpoint.folder)
        self._looked_for_checkpoint = True

    def _identity(self) -> dict[str, object]:
        return run_identity(
            to_dict(self.model.config), to_dict(self.config), self.loader.fingerprint
        )


def _to_host(losses: Losses, norm: Tensor) -> dict[str, float]:
    """All figures of a step as numbers, in one transfer from the device."""
    named = {"loss": losses.total.detach(), **losses.parts, "grad_norm": norm}
    values = torch.stack([tensor.to(torch.float32) for tensor in named.values()]).tolist()
    return dict(zip(named, values, strict=True))
