"""Trainer: steps, metrics, checkpoints and signals of one run."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeVar, runtime_checkable

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from coca.core.config.frozen_config import Config, to_dict
from coca.core.errors import CocaError, ConfigError, DataError, StorageError
from coca.core.progress import progress_bar, silent
from coca.data.batch import Batch
from coca.model.checkpoint import remove_unfinished
from coca.model.deferred_weights import DeferredWeights
from coca.model.pretrained import architecture_of, resolve_precision
from coca.train.backward import backward
from coca.train.blocks import set_training_mode
from coca.train.checkpoints import (
    CheckpointManager,
    SavedGroup,
    gather_full_tensors,
    init_weights_,
    load_newest_together,
    model_tensors,
    optimizer_state,
    random_state,
    require_same_run,
    restore_model,
    restore_optimizer,
    restore_random,
    undisturbed,
)
from coca.train.distributed.context import DistributedContext, lost_ranks_reported
from coca.train.distributed.parallel import FsdpConfig, Kind, ParallelModel
from coca.train.nonfinite import StepFigures, cause_of, figures_of, location_of, read_figures
from coca.train.objective import Objective
from coca.train.optim.ema import Ema, EmaConfig
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer, update_if_finite
from coca.train.optim.param_groups import freeze
from coca.train.optim.schedule import ScheduleConfig, lr_at, patch_dropout_at, set_patch_dropout
from coca.train.tracker import TRACKERS, MetricsLogger, Tracker


class TrainConfig(Config):
    """Length, precision, parallelism, logging and checkpoints of a run."""

    steps: PositiveInt
    """Number of training steps of the whole run, one batch each."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Optimizer and its hyperparameters."""
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
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
    fsdp: FsdpConfig = Field(default_factory=FsdpConfig)
    """Settings of `parallel: fsdp`."""
    compile: bool = False
    """Compile the blocks of all towers (`torch.compile`). Faster steps after some minutes of
    compilation at each start, if the compiler is not cached; it needs a C++ compiler. Losses differ
    from uncompiled ones by rounding."""
    recompute_every: PositiveInt | None = None
    """Recompute the activations of every n-th block in the backward pass, which saves memory and
    takes time; 1: of all blocks. null: keep all activations."""
    micro_batch: PositiveInt | None = None
    """Pairs per micro-batch on each rank. The result equals that of the whole batch, with less
    memory. null: the whole batch of the rank."""
    grad_clip: PositiveFloat | None = 1.0
    """Maximum norm of the gradient over all parameters; larger gradients are scaled down. null: no
    limit."""
    log_every: PositiveInt = 10
    """Steps between two rows of metrics, which are means over these steps. The host reads metrics
    from the device at rows and checkpoints only."""
    save_every: PositiveInt = 500
    """Steps between two checkpoints; one more is written at the end."""
    keep: PositiveInt = 2
    """Number of newest checkpoints to keep on disk."""
    max_bad_steps: PositiveInt = 10
    """Maximum number of consecutive steps with a non-finite loss or gradient; after more, the run
    fails at the next row of metrics."""
    trackers: tuple[str, ...] = ("jsonl",)
    """Experiment trackers: any of `jsonl`, `tensorboard`, or of a plug-in, such as `wandb`."""

    @model_validator(mode="after")
    def _check_rules(self) -> "TrainConfig":
        if isinstance(self.schedule.warmup, int) and self.schedule.warmup >= self.steps:
            raise ConfigError(
                f"schedule.warmup {self.schedule.warmup} must be below steps {self.steps}; "
                "a fraction such as 0.02 fits a run of any length"
            )
        if self.parallel != "fsdp" and self.fsdp != FsdpConfig():
            raise ConfigError(
                f"train.fsdp is set, but train.parallel is {self.parallel}; set it to fsdp, or "
                "remove train.fsdp"
            )
        for name in self.trackers:
            TRACKERS.get(name)
        return self


# Device of a run, and deterministic algorithms on it.


CUBLAS_WORKSPACE = ":4096:8"
"""Workspaces with which cuBLAS is deterministic: 8 buffers of 4,096 KiB."""


def training_device(name: str | torch.device) -> torch.device:
    """Resolve a device name; `auto` is the CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Restrict torch to deterministic algorithms, and restore its settings at the end."""
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    # A debugging aid for reads of uninitialized memory, which costs time.
    settings.fill_uninitialized_memory = False
    try:
        yield
    except RuntimeError as error:
        name, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise ConfigError(
            f"train.deterministic is true, but {name} has no deterministic algorithm on this "
            "device; set it to false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        settings.fill_uninitialized_memory = fill


# Graceful stop on SIGINT and SIGTERM: a loop finishes its step first.


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """State of a requested stop."""

    signal: int = 0
    """Number of the received signal; 0 before."""


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Convert the first SIGINT or SIGTERM within the block to a stop request; the second aborts.

    Previous handlers are restored at the end. Outside the main thread, where Python allows no
    handlers, this has no effect.

    Raises:
        KeyboardInterrupt: A second signal was received.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True
        # Another rank's signal may have been received before.
        stop.signal = stop.signal or number

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python and cannot be restored by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# Training loop with metrics, checkpoints and exact resume after any interruption.


logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=nn.Module)


@runtime_checkable
class BatchStream(Protocol):
    """Interface of a resumable loader: endless batches in one fixed order."""

    fingerprint: str
    """Equal for equal data in equal order."""
    state: int
    """Number of samples up to the end of the last returned batch; set it to resume there."""

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TrainResult:
    """Result of a call of `fit`."""

    step: int
    """Steps of the run so far, earlier calls included."""
    interrupted: bool
    """Whether a signal ended the run before its last step."""
    metrics: dict[str, float]
    """Metrics of the last logged row; empty if there was none."""
    terminated: bool = False
    """Whether the signal was SIGTERM, as sent by schedulers, and not Ctrl-C."""
    trained: int = 0
    """Steps of this call; 0 if the run was finished before."""


@runtime_checkable
class Evaluation(Protocol):
    """Scores the model of a run between two steps; all ranks call it."""

    every: int
    """Steps between two evaluations; one more follows the last step."""

    def check(self, trainer: "Trainer[Any]") -> None:
        """Raise an error before the first step for what cannot run."""
        ...

    def __call__(self, trainer: "Trainer[Any]") -> Mapping[str, float]:
        """Return the scores by name, equal on all ranks."""
        ...


class Trainer(Generic[ModelT]):
    """Trains one model in one run folder.

    A run with a checkpoint in the folder resumes from it. On the CPU of one machine, in fp32 and
    with the same number of ranks, the weights then equal those of an uninterrupted run, bit for
    bit. On CUDA this needs `deterministic: true`.

    In distributed training, each process makes a trainer of the same model and calls the same
    methods. Each batch is split over the processes. Only rank 0 writes metrics.

    Example:
        >>> trainer = Trainer(model, CoCaObjective(LossConfig()), loader=loader,
        ...     config=TrainConfig(steps=1000), run_dir="runs/first")  # doctest: +SKIP
        >>> trainer.fit().metrics["loss"]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: ModelT,
        objective: Objective[ModelT],
        *,
        loader: BatchStream,
        config: TrainConfig,
        run_dir: str | Path,
        trackers: Sequence[Tracker] = (),
        evaluation: "Evaluation | None" = None,
        device: str | torch.device = "auto",
        initial: DeferredWeights | None = None,
    ) -> None:
        """Move the model to its device and create its optimizer; no files are read or written.

        A model on the meta device gets its `initial` weights when the run starts.
        """
        self.device = training_device(device)
        self.model = model
        self.world = DistributedContext.current()
        self.precision = self.world.broadcast_from_main(
            lambda: resolve_precision(config.precision, self.device)
        )
        freeze(model, config.optimizer.freeze)
        self.parallel = ParallelModel(
            model,
            config.parallel,
            device=self.device,
            bf16=self.precision == "bf16",
            compiled=config.compile,
            recompute_every=config.recompute_every,
            fsdp=config.fsdp,
        )
        self._initial = initial
        self.objective = objective
        self.loader = loader
        self.config = config
        self.run_dir = Path(run_dir)
        self.trackers = tuple(trackers) if self.world.is_main else ()
        self.evaluation = evaluation
        self.optimizer = make_optimizer(model, config.optimizer)
        self.ema = Ema(model, config.ema) if config.ema else None
        self.step = 0
        self._samples_seen = loader.state
        self._metrics = MetricsLogger()
        self._unread: list[StepFigures[Tensor]] = []
        self._logged = self._evaluated = 0
        self._checkpoints = CheckpointManager(self.run_dir, keep=config.keep, world=self.world)
        self._save_is_due = False
        self._resumed = False
        self._error: CocaError | None = None

    def fit(self) -> TrainResult:
        """Train to the last step or until a stop signal; save a checkpoint in either case.

        After SIGINT or SIGTERM, the step finishes first; a second signal aborts at once. A call
        after an error continues from memory. An error on one rank ends all ranks.

        Raises:
            ConfigError: The folder's run had another model, other data or another optimizer.
            ModelError: The folder has checkpoints, but none is complete.
            DataError: The data cannot be read further; a checkpoint is written first.
            StorageError: A checkpoint or row cannot be written, or the ranks do not share the run
                folder; older checkpoints are kept.
            CocaError: Loss or gradient was not finite for `max_bad_steps` steps in a row, or
                another rank has ended.
        """
        with lost_ranks_reported(self.world), deterministic_algorithms(self.config.deterministic):
            return self._fit()

    def _fit(self) -> TrainResult:
        self.resume()
        self._checkpoints.require_shared_folder()
        before = self.step
        title = f"training from step {before}" if before else "training"
        bars = progress_bar if self.world.is_main else silent
        try:
            for tracker in self.trackers:
                tracker.rewind(self._logged)
            with stop_on_signal() as stop, bars(title, self._steps_left) as bar:
                set_training_mode(self.model, ranks=self.world.size)
                self._metrics.start_clock()
                self._log_and_save()
                for batch in self._batches(stop):
                    self._train_step(batch)
                    self._log_and_save()
                    row = self._metrics.last_row
                    bar.advance(1, **{it: row[it] for it in ("loss", "pairs_per_s") if it in row})
                self._save()
                self._checkpoints.wait()
        finally:
            for tracker in self.trackers:
                tracker.close()
        metrics = dict(self._metrics.last_row)
        terminated = stop.signal == signal.SIGTERM
        trained = self.step - before
        return TrainResult(self.step, self._steps_left > 0, metrics, terminated, trained)

    def resume(self) -> None:
        """Resume from the folder's newest checkpoint, or initialize the weights; for `fit`.

        Only the first call has an effect: later, the state in memory is newer.
        """
        if self._resumed:
            return
        if self.world.is_main:
            remove_unfinished(self.run_dir)
        checkpoint = load_newest_together(
            self.run_dir, self.world, lambda found: require_same_run(found, self._identity())
        )
        if checkpoint is None and self._initial is not None:
            init_weights_(self.model, self._initial)
            if self.ema is not None:
                self.ema.reset()
        if checkpoint is not None:
            state = checkpoint.state
            groups = {
                name: SavedGroup(checkpoint.folder, name, self.world)
                for name in ("model", "optimizer", "ema")
            }
            restore_model(self.model, groups["model"])
            restore_optimizer(self.model, self.optimizer, groups["optimizer"], state["optimizer"])
            if self.ema is not None:
                # What was not averaged so far starts from the weights.
                averages, averaged = self.ema.tensors(), groups["ema"].described
                for group, names in (
                    ("ema", averages.keys() & averaged.keys()),
                    ("model", averages.keys() - averaged.keys()),
                ):
                    groups[group].read_into({name: averages[name] for name in sorted(names)})
            self.step, self._samples_seen = checkpoint.step, state["samples_seen"]
            self._metrics.restore(state["figures"])
            self._logged = self._evaluated = checkpoint.step
            self._checkpoints.found(checkpoint.folder, checkpoint.step)
            restore_random(state["random"], self.device)
            if self.world.is_main:
                logger.info("resuming from %s", checkpoint.folder)
        self._resumed = True

    def weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Gather the full weights on the CPU by name; EMA weights if there are any.

        All ranks must call it. With `keep` false, a rank takes part and keeps none of them.
        """
        averages = self.ema.tensors() if self.ema else {}
        with lost_ranks_reported(self.world):
            return gather_full_tensors({**model_tensors(self.model), **averages}, keep=keep)

    def averaged(self) -> AbstractContextManager[None]:
        """Set the weights to their averages within a block, if the run keeps averages."""
        return self.ema.applied() if self.ema else nullcontext()

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass in the precision of the run."""
        half = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    @property
    def _steps_left(self) -> int:
        return self.config.steps - self.step

    def _batches(self, stop: StopRequest) -> Iterator[Batch]:
        """Yield this rank's batches until the last step or until all ranks agree to stop."""
        # After an error or a stop, the loader may be ahead by a batch that no step used.
        self.loader.state = self._samples_seen
        batches: Iterator[Batch] | None = None
        while True:
            batch = None
            # A finished run must not read a batch, which would start a worker.
            if self._steps_left and not stop.signal and self._error is None:
                try:
                    batches = batches or iter(self.loader)
                    batch = next(batches)
                except DataError as error:
                    # Schedulers send SIGTERM to all processes of a job, and workers end at once.
                    if not stop.signal or error.reason != "worker_killed":
                        self._error = error
            # In each step, since a rank without a batch would leave the others waiting in
            # collectives; on the CPU, so that no host waits for its device.
            has_error = self._error is not None or self._checkpoints.failed
            agreed, any_error = self.world.all_reduce_max([stop.signal, int(has_error)])
            if any_error:
                self._raise_error()
            if agreed:
                # A signal that arrives during this exchange counts at the next one.
                stop.signal = agreed
            if batch is None or agreed:
                return
            yield batch

    def _raise_error(self) -> NoReturn:
        """Raise the first error of any rank; after a data error, save a checkpoint first."""
        own, self._error = self._error, None
        self._checkpoints.wait()
        first = next(trouble for trouble in self.world.gather(own) if trouble is not None)
        if isinstance(first, DataError):
            self._save()
            self._checkpoints.wait()
        raise first

    def _train_step(self, batch: Batch) -> None:
        """Run one training step, without an update if the loss or the gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr_scale"] * self._lr_of(self.step)
        schedule = self.config.schedule
        set_patch_dropout(self.model, patch_dropout_at(self.step, self.config.steps, schedule))
        self.optimizer.zero_grad(set_to_none=True)
        losses = backward(
            self.parallel,
            self.objective,
            batch,
            micro_batch=self.config.micro_batch,
            autocast=self.autocast,
        )
        norms = self.parallel.gradient_norms()
        self.step += 1
        self._samples_seen = self.loader.state
        self._unread.append(figures_of(self.step, batch, losses, norms))
        if self.config.grad_clip is not None:
            self.parallel.clip_(norms.total, self.config.grad_clip)
        update_if_finite(self.optimizer, losses.total + norms.total)
        self.objective.constrain_(self.model)
        if self.ema is not None:
            self.ema.update(self.step)

    def _lr_of(self, update: int) -> float:
        """Compute the learning rate of an update, counted from 0."""
        return self.config.optimizer.lr * lr_at(update, self.config.steps, self.config.schedule)

    def _read_metrics(self) -> None:
        """Read the metrics of the last steps; log skipped steps, and raise after too many in a row.

        The host waits for the device here, and not in other steps.
        """
        unread, self._unread = self._unread, []
        failure = ""
        for figures in read_figures(unread):
            pairs = (figures.last - figures.first + 1) * self.world.size
            if self._metrics.add(figures.metrics, pairs=pairs):
                continue
            # Loss and norm are equal on all ranks, so all of them are here.
            ranks = self.world.gather(figures)
            cause, step = cause_of(ranks), figures.step
            if self.world.is_main:
                where = location_of(ranks)
                logger.warning("step %s skipped: %s is not finite (%s)", step, cause, where)
            in_a_row = self._metrics.bad_in_a_row
            if in_a_row >= self.config.max_bad_steps and not failure:
                failure = f"{in_a_row} steps in a row were not finite, last step {step} by {cause}"
        if failure:
            self._checkpoints.wait()
            raise CocaError(
                f"{failure}; the last good checkpoint {self._checkpoints.kept()}; "
                "a lower optimizer.lr may help"
            )

    def _log_and_save(self) -> None:
        """Evaluate, log metrics and save a checkpoint if due, or still due after a failure."""
        last = not self._steps_left
        logs = last or self.step % self.config.log_every == 0
        self._save_is_due |= last or self.step % self.config.save_every == 0
        if logs or self._save_is_due:
            self._read_metrics()
        try:
            row = self._scores()
            if logs and self._logged < self.step:
                row = self._metrics.row(row, lr=self._lr_of(self.step - 1))
                self._metrics.begin_row()
                self._logged = self.step
            for tracker in self.trackers if row else ():
                tracker.log(self.step, row)
        except StorageError as error:
            self._error = error
        # Consecutive non-finite steps may come from diverged weights. Checkpoints of them would
        # replace the last good checkpoints.
        if last or (self._save_is_due and not self._metrics.bad_in_a_row):
            self._save()
            self._save_is_due = False

    def _scores(self) -> Mapping[str, float]:
        """Evaluate the model if due; nothing of the training changes."""
        evaluation = self.evaluation
        if evaluation is None or self._evaluated == self.step:
            return {}
        if self._steps_left and self.step % evaluation.every:
            return {}
        self._evaluated = self.step
        with self._metrics.clock_stopped(), undisturbed(self.model, self.device):
            return evaluation(self)

    def _save(self) -> None:
        """Save a checkpoint, unless this step is saved already."""
        self._read_metrics()
        moments, values = optimizer_state(self.model, self.optimizer)
        groups = {"model": model_tensors(self.model), "optimizer": moments}
        if self.ema is not None:
            groups["ema"] = self.ema.tensors()
        self._checkpoints.save(
            self.step,
            groups,
            state={
                "run": self._identity(),
                "samples_seen": self._samples_seen,
                "optimizer": values,
                "figures": self._metrics.state(),
            },
            own={"random": random_state(self.device)},
        )

    def _identity(self) -> dict[str, object]:
        return {
            "architecture": architecture_of(self.model.config),
            "model": to_dict(self.model.config),
            "train": to_dict(self.config),
            "data": self.loader.fingerprint,
        }
