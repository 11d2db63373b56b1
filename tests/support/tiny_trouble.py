"""What may go wrong while two ranks train, and how each of them ends."""

import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coca.core.errors import CocaError, StorageError
from coca.data.batch import Batch
from coca.model.captioner import Captioner
from coca.model.coca import CoCa
from coca.train.checkpoints import manager as checkpoint_manager
from coca.train.checkpoints import sharded_safetensors
from coca.train.distributed.context import DistributedContext
from coca.train.objective import CoCaObjective, LossConfig, Losses
from coca.train.tracker import JsonLinesTracker
from coca.train.trainer import Trainer, TrainResult
from tiny import tiny_config
from tiny_run import SignalAfter
from tiny_seed import seed_weights
from tiny_shared_run import PAIRS, SharedStream, shared_trainer

Outcome = dict[str, Any]
"""Numbers and words about one rank."""


class Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    listener = Listener()
    logging.getLogger("coca").addHandler(listener)
    yield listener.words
    logging.getLogger("coca").removeHandler(listener)


def ended(trainer: Trainer[CoCa]) -> Outcome:
    """How a call of `fit` ends."""
    with listening() as words:
        try:
            result: TrainResult | None = trainer.fit()
            error = None
        except CocaError as raised:
            result, error = None, raised
    return {
        "step": trainer.step,
        "interrupted": result is not None and result.interrupted,
        "terminated": result is not None and result.terminated,
        "error": "" if error is None else f"{type(error).__name__}: {error}",
        "log": words,
        "bad_steps": trainer._metrics.bad_steps,
        "finite": all(bool(t.isfinite().all()) for t in trainer.weights().values()),
    }


def poisoned(*batches: int) -> SharedStream:
    """A stream whose last image, which rank 1 has, is not finite in these batches."""
    stream = SharedStream(poisoned=frozenset(batches))
    stream.poisoned_row = PAIRS - 1
    return stream


def bad_steps(folder: Path) -> Outcome:
    return ended(shared_trainer(folder, "ddp", loader=poisoned(2, 6)))


def bad_steps_in_pieces(folder: Path) -> Outcome:
    return ended(shared_trainer(folder, "fsdp", loader=poisoned(2)))


def too_many_bad_steps(folder: Path) -> Outcome:
    loader = poisoned(*range(6, 40))
    return ended(shared_trainer(folder, "ddp", loader=loader, max_bad_steps=3))


def bad_gradient(folder: Path) -> Outcome:
    """A piece of a gradient is not finite, which rank 1 has; its parameter is to be named."""
    objective = SpoiledGradient(LossConfig())
    return ended(shared_trainer(folder, "fsdp", steps=1, objective=objective))


class SpoiledGradient(CoCaObjective):
    """The last row of the image projection gets an infinite gradient."""

    def __call__(self, model: Captioner, batch: Batch) -> Losses:
        losses = super().__call__(model, batch)
        weight = dict(model.named_parameters())["image_projection.weight"]
        # Its value is 0 and its gradient 0 / 0.
        return losses._replace(total=losses.total + (weight[-1] * 0).sum().sqrt())


def data_that_end_on_rank_1(folder: Path) -> Outcome:
    loader = SharedStream(ends_at=7 if DistributedContext.current().rank else None)
    first = ended(shared_trainer(folder, "ddp", loader=loader))
    return first | {"again": ended(shared_trainer(folder, "ddp"))["step"]}


def signal_to_rank_1(folder: Path) -> Outcome:
    step = 4 if DistributedContext.current().rank else 99
    trainer = shared_trainer(folder, "ddp", objective=SignalAfter(step, signal.SIGTERM))
    return ended(trainer)


def full_disk_of_rank_1(folder: Path) -> Outcome:
    """Rank 1 has no disk space for its shard of the second checkpoint; then it has space again."""
    flush, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        # One flush for each of its shards of the model and of the optimizer.
        if DistributedContext.current().rank == 1 and len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    os.fsync = full  # type: ignore[assignment]
    trainer = shared_trainer(folder, "ddp")
    first = ended(trainer)
    os.fsync = flush
    return first | {"kept": saved(folder), "again": ended(trainer)["step"]}


def saved(folder: Path) -> list[str]:
    # Without those that the main rank is removing at this moment.
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*"))


def no_space_for_a_row(folder: Path) -> Outcome:
    """Only the main rank writes rows, and it cannot write that of step 4, once."""

    class Full:
        tried = False

        def rewind(self, step: int) -> None: ...

        def log(self, step: int, metrics: object) -> None:
            if step == 4 and not self.tried:
                self.tried = True
                raise StorageError("metrics.jsonl cannot be written: No space left on device")

        def close(self) -> None: ...

    trackers = [JsonLinesTracker(folder), Full()]
    trainer = shared_trainer(folder, "ddp", trackers=trackers)
    first = ended(trainer)
    return first | {"again": ended(trainer)["step"]}


def run_of_another_model(folder: Path) -> Outcome:
    """Only the main rank reads the folder's checkpoint, and refuses it."""
    ended(shared_trainer(folder, "ddp", steps=5))
    model = CoCa(tiny_config(initial_temperature=0.1))
    return ended(shared_trainer(folder, "ddp", model=model))


def slow_saves(folder: Path) -> Outcome:
    """The first save ends when a step has been made behind it."""
    write, events, every = sharded_safetensors.write_shards, [], 2
    trainer = shared_trainer(folder, "ddp", steps=6, save_every=every)

    def slow(*arguments: Any) -> Any:
        events.append(("begin", trainer.step))
        while len(events) == 1 and trainer.step <= every:
            time.sleep(0.001)
        paths = write(*arguments)
        events.append(("end", trainer.step))
        return paths

    checkpoint_manager.write_shards = slow  # type: ignore[assignment, attr-defined]
    outcome = ended(trainer)
    checkpoint_manager.write_shards = write  # type: ignore[attr-defined]
    return outcome | {"events": events, "kept": saved(folder)}


SCENES: tuple[Callable[[Path], Outcome], ...] = (
    bad_steps,
    bad_steps_in_pieces,
    bad_gradient,
    too_many_bad_steps,
    data_that_end_on_rank_1,
    signal_to_rank_1,
    full_disk_of_rank_1,
    no_space_for_a_row,
    run_of_another_model,
    slow_saves,
)


def all_scenes(folder: Path) -> dict[str, Outcome]:
    seed_weights()
    return {scene.__name__: scene(folder / scene.__name__) for scene in SCENES}
