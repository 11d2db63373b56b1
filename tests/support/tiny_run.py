"""A training run small enough for a test, and how it is killed."""

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from coca.core.errors import DataError
from coca.core.progress import show_progress
from coca.data.batch import Batch
from coca.model.checkpoint import CHECKPOINT_FOLDER, Checkpoint, load_newest
from coca.model.coca import CoCa
from coca.model.deferred_weights import DeferredWeights
from coca.train.losses import LossConfig, Losses
from coca.train.objective import CoCaObjective
from coca.train.optim.optimizer import OptimizerConfig
from coca.train.optim.schedule import ScheduleConfig
from coca.train.tracker import METRICS_FILE, Tracker, make_trackers
from coca.train.trainer import TrainConfig, Trainer
from tiny import caption, seed_weights, tiny_config


class TinyStream:
    """Noise with captions, each batch a pure function of its index."""

    def __init__(
        self,
        *,
        batch_size: int = 4,
        fingerprint: str = "tiny",
        poisoned: frozenset[int] = frozenset(),
        ends_at: int | None = None,
        waits_at: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.fingerprint = fingerprint
        self.poisoned = poisoned
        """Batches that have an image which is not finite."""
        self.poisoned_row = 0
        self.ends_at = ends_at
        """Batch at which the data become unreadable."""
        self.waits_at = waits_at
        """Batch that never comes, so that the process is killed before its run is over."""
        self.rank, self.ranks = rank, ranks
        self.state = 0
        self.drawn: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        while True:
            number = self.state // self.batch_size
            if number == self.ends_at:
                raise DataError("the shard photos-003.tar has vanished", reason="missing")
            if number == self.waits_at:
                threading.Event().wait()
            self.drawn.append(number)
            start, self.state = self.state, self.state + self.batch_size
            yield self._batch(number, start).split(self.batch_size // self.ranks)[self.rank]

    def _batch(self, number: int, start: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(self.batch_size, 3, 16, 16, generator=generator)
        if number in self.poisoned:
            images[self.poisoned_row, 0, 0, 0] = torch.nan
        words = torch.randint(4, 50, (self.batch_size, 5), generator=generator).tolist()
        tokens = torch.tensor([caption(*row, length=8) for row in words])
        keys = tuple(f"sample-{start + row}" for row in range(self.batch_size))
        return Batch(images=images, tokens=tokens, keys=keys, start=start)


def tiny_trainer(
    run_folder: Path,
    *,
    loader: Any = None,
    losses: LossConfig | None = None,
    trackers: list[Tracker] | None = None,
    model: CoCa | None = None,
    objective: Any = None,
    optimizer: str = "adamw",
    device: str | torch.device = "cpu",
    initial: DeferredWeights | None = None,
    **changes: Any,
) -> Trainer[CoCa]:
    settings: dict[str, Any] = {
        "steps": 12,
        "optimizer": OptimizerConfig(name=optimizer, lr=1e-2),
        "schedule": ScheduleConfig(warmup=0.25),
        "log_every": 2,
        "save_every": 5,
    }
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    seed_weights()
    if model is None:
        model = CoCa(tiny_config())
    return Trainer(
        model,
        objective or CoCaObjective(losses or LossConfig()),
        loader=loader or TinyStream(),
        config=TrainConfig(**{**settings, **changes}),
        run_dir=run_folder,
        trackers=make_trackers(["jsonl"], run_folder) if trackers is None else trackers,
        device=device,
        initial=initial,
    )


def weights(trainer: Trainer[CoCa]) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in trainer.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def newest(run_folder: Path) -> Checkpoint:
    checkpoint = load_newest(run_folder)
    assert checkpoint is not None
    return checkpoint


def assert_same_checkpoint(run_folder: Path, expected: Path) -> None:
    """The newest checkpoints of both runs are of one step and hold the same bits."""
    ours, theirs = newest(run_folder), newest(expected)
    assert ours.step == theirs.step
    for group in ("model", "optimizer", "ema"):
        assert same(ours.group(group), theirs.group(group)), group


def read_metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The complete rows of the tracker `jsonl`, each with its `step`."""
    path = run_folder / METRICS_FILE
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def rows(run_folder: Path) -> list[dict[str, float]]:
    """The logged rows without the one figure that is measured by the clock."""
    return [
        {name: value for name, value in row.items() if name != "pairs_per_s"}
        for row in read_metrics(run_folder)
    ]


def saved_steps(run_folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in sorted((run_folder / CHECKPOINT_FOLDER).iterdir())]


class SignalAfter(CoCaObjective):
    """Sends this process a signal while a step runs, as Ctrl-C would."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        super().__init__(LossConfig())
        self.step, self.number, self.calls = step, number, 0

    def __call__(self, model: CoCa, batch: Batch) -> Losses:
        self.calls += 1
        if self.calls == self.step:
            os.kill(os.getpid(), self.number)
        return super().__call__(model, batch)


class RecordingBar:
    def __init__(self) -> None:
        self.count = 0
        self.figures: list[dict[str, float | str]] = []

    def advance(self, count: int = 1, **figures: float | str) -> None:
        self.count += count
        self.figures.append(figures)


Bars: TypeAlias = dict[tuple[str, int | None], RecordingBar]


def recording(bars: Bars) -> AbstractContextManager[None]:
    """A block whose progress bars are kept by title and total."""

    @contextmanager
    def make(title: str, total: int | None) -> Iterator[RecordingBar]:
        bars[title, total] = RecordingBar()
        yield bars[title, total]

    return show_progress(make)


def kill_at_sync_number(count: int) -> None:
    """Let this process die, as by a power cut, instead of its `count`-th flush to disk."""
    flush = os.fsync
    calls = 0

    def fatal(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(descriptor)

    os.fsync = fatal  # type: ignore[assignment]


def train_until_killed(run_folder: Path, kill_at_sync: int | None, settings: Any) -> None:
    """A whole run in a process of its own."""
    if kill_at_sync is not None:
        kill_at_sync_number(kill_at_sync)
    tiny_trainer(run_folder, **settings).fit()
