"""The training loop: steps, figures, checkpoints; stopped at any moment, it goes on exactly."""

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NoReturn, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from coca.core.config import to_dict
from coca.core.errors import CocaError, DataError, StorageError
from coca.core.progress import ProgressMaker, silent
from coca.data.sample import Batch
from coca.train.backward import backward
from coca.train.checkpoint import Checkpoint, load_newest, remove_unfinished
from coca.train.checkpoint_manager import OTHER_RANKS, CheckpointManager
from coca.train.config import TrainConfig
from coca.train.device import deterministic_algorithms, training_device
from coca.train.distributed_context import DistributedContext, lost_ranks_reported
from coca.train.ema import Ema
from coca.train.metrics_logger import MetricsLogger
from coca.train.nonfinite import cause_of, nonfinite_report, place_of
from coca.train.objective import Losses, Objective
from coca.train.optimizer import make_optimizer
from coca.train.parallel import ParallelModel
from coca.train.param_groups import freeze
from coca.train.resume import require_same_run, run_identity
from coca.train.schedule import lr_at, patch_dropout_at, set_patch_dropout
from coca.train.signals import StopRequest, stop_on_signal
from coca.train.state import (
    distribute_like,
    gather_full_tensors,
    model_tensors,
    optimizer_state,
    random_state,
    restore_model,
    restore_optimizer,
    restore_random,
)
from coca.train.tracker import Tracker

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=nn.Module)


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
    terminated: bool = False
    """Whether that signal was SIGTERM, as schedulers send it, and not Ctrl-C."""
    trained: int = 0
    """Steps of this call; none if the run was finished before."""


class Trainer(Generic[ModelT]):
    """Trains one model in one folder.

    If the folder holds a checkpoint, the run goes on from it. On the CPU of one machine, in fp32
    and with as many ranks as before, its weights then become those of a run that was never stopped,
    bit for bit. On CUDA this needs `deterministic: true`.

    Where several processes have joined (`world`), each of them makes a trainer of the same model
    and calls the same methods; they share each batch. Only the main one writes figures.

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
            loader: The data; on several ranks this rank's part of it.
            config: Length, pace and precision.
            run_folder: Where checkpoints are kept and looked for; made if needed.
            trackers: Where figures go, see `make_trackers`.
            device: As `training_device` takes it.

        Raises:
            ConfigError: `parallel` does not fit the number of processes.
        """
        self.device = training_device(device)
        self.model = model
        self.world = DistributedContext.current()
        freeze(model, config.optimizer.freeze)
        self.parallel = ParallelModel(
            model, config.parallel, device=self.device, bf16=config.precision == "bf16"
        )
        self.objective = objective
        self.loader = loader
        self.config = config
        self.run_folder = Path(run_folder)
        self.trackers = tuple(trackers) if self.world.is_main else ()
        self.optimizer = make_optimizer(model, config.optimizer)
        self.ema = Ema(model, config.ema) if config.ema else None
        self.step = 0
        self._samples_seen = loader.state
        self._figures = MetricsLogger()
        self._logged = 0
        self._saver = CheckpointManager(self.run_folder, keep=config.keep, world=self.world)
        self._save_is_due = False
        self._looked_for_checkpoint = False
        self._trouble: CocaError | None = None

    def fit(self, progress: ProgressMaker = silent) -> TrainResult:
        """Train to the last step, or until a signal asks to stop; save in either case.

        SIGINT and SIGTERM let the step finish first; a second one aborts at once. Called again
        after an error, it goes on from memory. What goes wrong on one rank ends all of them.

        Raises:
            ConfigError: The folder's run had another model, other data or another optimiser.
            ModelError: No checkpoint in the folder is whole.
            DataError: The data cannot be read further; a checkpoint is written first.
            StorageError: A checkpoint or row cannot be written; older checkpoints stand.
            CocaError: Loss or gradient was not finite for `max_bad_steps` steps in a row; or
                another rank has ended.
        """
        with lost_ranks_reported(self.world), deterministic_algorithms(self.config.deterministic):
            return self._fit(progress)

    def _fit(self, progress: ProgressMaker) -> TrainResult:
        self.resume()
        before = self.step
        title = f"training from step {before}" if before else "training"
        bars = progress if self.world.is_main else silent
        try:
            for tracker in self.trackers:
                tracker.rewind(self._logged)
            with stop_on_signal() as stop, bars(title, self._steps_left) as bar:
                self.model.train()
                self._figures.start_clock()
                self._keep_up()
                for batch in self._batches(stop):
                    loss = self._train_on(batch)
                    bar.advance(1, loss=loss, pairs_per_s=self._figures.pairs_per_s)
                    self._keep_up()
                self._save()
                self._saver.wait()
        finally:
            for tracker in self.trackers:
                tracker.close()
        figures = dict(self._figures.last_row)
        terminated = stop.signal == signal.SIGTERM
        trained = self.step - before
        return TrainResult(self.step, self._steps_left > 0, figures, terminated, trained)

    def resume(self) -> None:
        """Go on from the folder's newest checkpoint, as `fit` does first.

        Only once, since memory is newer later.

        Raises:
            ConfigError: The folder's run had another model, other data or another optimiser.
            ModelError: No checkpoint in the folder is whole.
        """
        if self._looked_for_checkpoint:
            return
        checkpoint = self.world.broadcast_from_main(self._newest)
        if checkpoint is not None:
            state = checkpoint.state
            weights = checkpoint.group("model")
            restore_model(self.model, weights)
            restore_optimizer(
                self.model, self.optimizer, checkpoint.group("optimizer"), state["optimizer"]
            )
            if self.ema is not None:
                # A run that kept no averages until now begins them here.
                averages, places = checkpoint.group("ema") or weights, self.ema.tensors()
                self.ema.restore({n: distribute_like(averages[n], places[n]) for n in places})
            self.step, self._samples_seen = checkpoint.step, state["samples_seen"]
            self._figures.restore(state["figures"])
            self._logged = checkpoint.step
            self._saver.found(checkpoint.folder, checkpoint.step)
            # A rank that was not there before takes the state of the first.
            others = state.get(OTHER_RANKS, [])
            own = others[self.world.rank - 1] if 0 < self.world.rank <= len(others) else state
            restore_random(own["random"], self.device)
            if self.world.is_main:
                logger.info("going on from %s", checkpoint.folder)
        self._looked_for_checkpoint = True

    def weights(self) -> dict[str, Tensor]:
        """The whole weights by name, on the CPU: the averages if they are kept.

        Every rank must call it.
        """
        averages = self.ema.tensors() if self.ema else {}
        with lost_ranks_reported(self.world):
            return gather_full_tensors({**model_tensors(self.model), **averages})

    @property
    def _steps_left(self) -> int:
        return self.config.steps - self.step

    def _batches(self, stop: StopRequest) -> Iterator[Batch]:
        """This rank's batches, until the last step or until all ranks agree to end."""
        # Behind an error or a stop, a batch may have been drawn that no step used.
        self.loader.state = self._samples_seen
        batches: Iterator[Batch] | None = None
        while True:
            batch = None
            # Nothing may be drawn for a run that is done: a worker would start for it.
            if self._steps_left and not stop.requested and self._trouble is None:
                try:
                    batches = batches or iter(self.loader)
                    batch = next(batches)
                except DataError as error:
                    # Schedulers send SIGTERM to all processes of a job, and workers obey at once.
                    if not stop.requested or error.reason != "worker_killed":
                        self._trouble = error
            in_trouble = self._trouble is not None or self._saver.failed
            agreed, any_in_trouble = self.world.all_reduce_max([stop.signal, int(in_trouble)])
            if any_in_trouble:
                self._end()
            if agreed:
                # A signal that came while the ranks agreed stays for the next time.
                stop.signal = agreed
            if batch is None or agreed:
                return
            yield batch

    def _end(self) -> NoReturn:
        """Raise what went wrong, on whichever rank it did; data that end cost no step."""
        own, self._trouble = self._trouble, None
        self._saver.wait()
        first = next(trouble for trouble in self.world.gather(own) if trouble is not None)
        if isinstance(first, DataError):
            self._save()
            self._saver.wait()
        raise first

    def _train_on(self, batch: Batch) -> float:
        """One update; returns the loss, which may not be finite: the update is skipped then."""
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
            autocast=self._autocast,
        )
        norm = self.parallel.gradient_norm()
        figures = _to_host(losses, norm)
        self.step += 1
        self._samples_seen = self.loader.state
        if self._figures.add(figures, pairs=len(batch.keys) * self.world.size):
            # Not earlier: a norm that is not finite would spoil every gradient, and with that
            # the trace to its cause.
            if self.config.grad_clip is not None:
                self.parallel.clip_(norm, self.config.grad_clip)
            self.optimizer.step()
            self.objective.constrain_(self.model)
            if self.ema is not None:
                self.ema.update(self.step - self._figures.bad_steps)
        else:
            self._skip(batch, figures)
        return figures["loss"]

    def _autocast(self) -> AbstractContextManager[None]:
        half = self.config.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def _lr_of(self, update: int) -> float:
        """Learning rate of an update, counted from 0."""
        return self.config.optimizer.lr * lr_at(update, self.config.steps, self.config.schedule)

    def _skip(self, batch: Batch, figures: dict[str, float]) -> None:
        """Name the cause of a step that makes no update, and give up after too many."""
        clues = self.world.gather(nonfinite_report(figures, self.parallel.gradients(), batch))
        cause = cause_of(clues)
        if self.world.is_main:
            logger.warning(
                "step %s skipped: %s is not finite (%s)", self.step, cause, place_of(clues)
            )
        in_a_row = self._figures.bad_in_a_row
        if in_a_row >= self.config.max_bad_steps:
            self._saver.wait()
            raise CocaError(
                f"{in_a_row} steps in a row were not finite, last step {self.step} by {cause}; "
                f"the last good checkpoint {self._saver.kept()}; a lower optimizer.lr may help"
            )

    def _keep_up(self) -> None:
        """Log and save what is due at this step and, after a failure, still to be done."""
        last = not self._steps_left
        try:
            if (last or self.step % self.config.log_every == 0) and self._logged < self.step:
                row = self._figures.row(lr=self._lr_of(self.step - 1))
                for tracker in self.trackers:
                    tracker.log(self.step, row)
                self._figures.begin_row()
                self._logged = self.step
        except StorageError as error:
            self._trouble = error
        self._save_is_due |= self.step % self.config.save_every == 0
        # A row of bad steps may come from weights that have left all bounds. Saved again and again,
        # they would push the last good ones out.
        if last or (self._save_is_due and not self._figures.bad_in_a_row):
            self._save()
            self._save_is_due = False

    def _save(self) -> None:
        """Write a checkpoint, unless there is nothing new to keep."""
        moments, values = optimizer_state(self.model, self.optimizer)
        groups = {"model": model_tensors(self.model), "optimizer": moments}
        if self.ema is not None:
            groups["ema"] = self.ema.tensors()
        self._saver.save(
            self.step,
            groups,
            state={
                "run": self._identity(),
                "samples_seen": self._samples_seen,
                "optimizer": values,
                "figures": self._figures.state(),
            },
            own={"random": random_state(self.device)},
        )

    def _newest(self) -> Checkpoint | None:
        remove_unfinished(self.run_folder)
        checkpoint = load_newest(self.run_folder)
        if checkpoint is not None:
            require_same_run(checkpoint, self._identity())
        return checkpoint

    def _identity(self) -> dict[str, object]:
        return run_identity(
            to_dict(self.model.config), to_dict(self.config), self.loader.fingerprint
        )


def _to_host(losses: Losses, norm: Tensor) -> dict[str, float]:
    """All figures of a step as numbers, in one transfer from the device."""
    named = {"loss": losses.total.detach(), **losses.parts, "grad_norm": norm}
    values = torch.stack([tensor.to(torch.float32) for tensor in named.values()]).tolist()
    return dict(zip(named, values, strict=True))
