import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from coca.core.errors import CocaError, ConfigError, DataError, StorageError
from coca.data.batch import Batch
from coca.model.checkpoint import (
    CHECKPOINT_FOLDER,
    Checkpoint,
    step_folder,
)
from coca.model.coca import CoCa
from coca.train.checkpoints import CheckpointManager, require_same_run
from coca.train.distributed.context import DistributedContext
from coca.train.losses import Losses
from coca.train.trainer import Trainer
from tiny import tiny_config
from tiny_run import (
    Bars,
    SignalAfter,
    TinyStream,
    assert_same_checkpoint,
    newest,
    read_metrics,
    recording,
    rows,
    same,
    saved_steps,
    tiny_trainer,
    weights,
)


@pytest.mark.parametrize(
    ("optimizer", "stop"),
    [("adamw", 1), ("adamw", 4), ("adamw", 5), ("adamw", 7), ("adafactor", 7)],
)
def test_a_stopped_run_that_goes_on_equals_one_that_was_never_stopped(
    whole_run: Callable[[str], Trainer[CoCa]], tmp_path: Path, optimizer: str, stop: int
) -> None:
    if optimizer == "adafactor":
        pytest.importorskip("timm")
    whole = whole_run(optimizer)
    stopped = tiny_trainer(
        tmp_path / "run", optimizer=optimizer, objective=SignalAfter(stop, signal.SIGTERM)
    )
    assert stopped.fit().interrupted
    assert saved_steps(tmp_path / "run")[-1] == stop
    torch.manual_seed(1)
    fresh = tiny_trainer(tmp_path / "run", optimizer=optimizer, model=CoCa(tiny_config()))
    bars: Bars = {}
    with recording(bars):
        result = fresh.fit()
    assert result == type(result)(12, False, result.metrics, trained=12 - stop)
    assert list(bars) == [(f"training from step {stop}", 12 - stop)]
    assert same(weights(fresh), weights(whole))
    assert rows(tmp_path / "run") == rows(whole.run_dir)
    assert_same_checkpoint(tmp_path / "run", whole.run_dir)


def test_a_finished_run_draws_no_batch_and_returns_its_metrics(
    uninterrupted: Trainer[CoCa], tmp_path: Path
) -> None:
    loader = TinyStream()
    figures = read_metrics(tmp_path / "whole")[-1]
    result = tiny_trainer(tmp_path / "whole", loader=loader).fit()
    assert loader.drawn == []
    assert result.step == 12
    assert {"step": 12, **result.metrics} == figures


def test_a_run_behind_a_damaged_checkpoint_ends_the_same(
    uninterrupted: Trainer[CoCa], tmp_path: Path
) -> None:
    expected = weights(uninterrupted)
    (tmp_path / "whole" / CHECKPOINT_FOLDER / "step_00000012" / "model.safetensors").write_bytes(
        b""
    )
    again = tiny_trainer(tmp_path / "whole")
    again.fit()
    assert same(weights(again), expected)
    assert [row["step"] for row in rows(tmp_path / "whole")] == [2, 4, 6, 8, 10, 12]


def test_a_second_signal_aborts_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    class Twice(SignalAfter):
        def __call__(self, model: CoCa, batch: Batch) -> Losses:
            losses = super().__call__(model, batch)
            if self.calls == self.step:
                os.kill(os.getpid(), signal.SIGINT)
            return losses

    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path, objective=Twice(7)).fit()
    assert saved_steps(tmp_path) == [5]


def test_a_signal_that_comes_while_ranks_agree_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed = 0

    def all_reduce_max(world: DistributedContext, values: Sequence[int]) -> list[int]:
        nonlocal agreed
        agreed += 1
        recorded = list(values)
        if agreed == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return recorded

    monkeypatch.setattr(DistributedContext, "all_reduce_max", all_reduce_max)
    result = tiny_trainer(tmp_path).fit()
    assert (result.step, result.interrupted, result.terminated) == (4, True, True)


def test_an_own_signal_behind_that_of_another_rank_aborts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher signals all ranks; the request of one may reach another before its own signal."""
    calls = 0

    def all_reduce_max(world: DistributedContext, values: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        return [signal.SIGTERM if calls == 4 else values[0], values[1]]

    save = Trainer._save

    def signalled_late(trainer: Trainer[CoCa]) -> None:
        if calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        save(trainer)

    monkeypatch.setattr(DistributedContext, "all_reduce_max", all_reduce_max)
    monkeypatch.setattr(Trainer, "_save", signalled_late)
    result = tiny_trainer(tmp_path).fit()
    assert (result.step, result.interrupted, result.terminated) == (3, True, True)
    assert saved_steps(tmp_path) == [3]


def test_every_setting_of_the_model_that_differs_is_reported() -> None:
    def held(**model: object) -> Checkpoint:
        state = {
            "run": {
                "model": model,
                "train": {"steps": 2, "optimizer": {"name": "adamw"}},
                "data": "f",
            }
        }
        return Checkpoint(Path("run"), 1, state)

    now = held(width=8, head=None).state["run"]
    require_same_run(held(width=8, head=None), now)
    with pytest.raises(ConfigError, match=r"model\.depth is 3 there and None here"):
        require_same_run(held(width=8, head=None, depth=3), now)
    with pytest.raises(ConfigError, match=r"model\.width is 8 there and 0 here"):
        require_same_run(held(width=8), held(width=0).state["run"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"loader": TinyStream(fingerprint="new")}, "other data .* tiny there, new here"),
        ({"optimizer": "muon"}, "optimizer 'adamw', not of 'muon'"),
        ({"steps": 6}, "step_00000012 is beyond the 6 steps"),
    ],
)
def test_another_run_is_refused(
    uninterrupted: Trainer[CoCa], tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tiny_trainer(tmp_path / "whole", **change).fit()


def test_a_longer_run_goes_on_and_logs_what_changed(
    uninterrupted: Trainer[CoCa], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = tiny_trainer(tmp_path / "whole", steps=14).fit()
    assert result.step == 14
    assert "train.steps is 12 there and 14 here" in caplog.text
    assert [row["step"] for row in rows(tmp_path / "whole")][-2:] == [12, 14]


def test_data_that_vanish_cost_no_step(uninterrupted: Trainer[CoCa], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match="photos-003"):
        tiny_trainer(run, loader=TinyStream(ends_at=8)).fit()
    assert saved_steps(run) == [5, 8]
    again = tiny_trainer(run)
    again.fit()
    assert same(weights(again), weights(uninterrupted))
    assert rows(run) == rows(tmp_path / "whole")


class SweptAway(TinyStream):
    """A loader whose worker is ended by the SIGTERM of the job, while a batch is waited for."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if len(self.drawn) == 8:
                os.kill(os.getpid(), signal.SIGTERM)
                raise DataError("a data worker was stopped from outside", reason="worker_killed")
            yield batch


def test_a_job_that_is_ended_with_its_workers_stops_as_asked(
    uninterrupted: Trainer[CoCa], tmp_path: Path
) -> None:
    result = tiny_trainer(tmp_path, loader=SweptAway()).fit()
    assert (result.step, result.interrupted, result.terminated) == (7, True, True)
    assert saved_steps(tmp_path) == [5, 7]
    again = tiny_trainer(tmp_path)
    again.fit()
    assert same(weights(again), weights(uninterrupted))


GROUPS = {"model": {"weight": torch.ones(2)}}


def save(saver: CheckpointManager, step: int) -> None:
    saver.save(step, GROUPS, state={"run": "first"}, own={"random": step})


def test_one_process_saves_at_once_what_is_of_the_run_and_what_is_its_own(tmp_path: Path) -> None:
    saver = CheckpointManager(tmp_path, keep=2, world=DistributedContext())
    assert saver.kept() == "does not exist yet"
    save(saver, 3)
    checkpoint = newest(tmp_path)
    assert checkpoint.state == {"run": "first", "random": 3}
    assert (saver.newest, saver.step) == (checkpoint.folder, 3)
    assert saver.kept() == f"is {checkpoint.folder}"
    assert not saver.failed


def test_a_step_that_is_saved_is_not_saved_again(tmp_path: Path) -> None:
    saver = CheckpointManager(tmp_path, keep=2, world=DistributedContext())
    save(saver, 0)
    assert not (tmp_path / CHECKPOINT_FOLDER).exists()
    saver.found(step_folder(tmp_path, 4), 4)
    save(saver, 4)
    assert not (tmp_path / CHECKPOINT_FOLDER).exists()
    save(saver, 5)
    assert step_folder(tmp_path, 5).is_dir()


def test_a_folder_that_is_not_writable_raises_with_the_last_checkpoint(tmp_path: Path) -> None:
    saver = CheckpointManager(tmp_path, keep=2, world=DistributedContext())
    save(saver, 1)
    step_folder(tmp_path, 2).write_bytes(b"in the way")
    with pytest.raises(StorageError, match=r"step_00000002 .*; the last good .*step_00000001"):
        save(saver, 2)
    assert saver.step == 1


def test_what_stops_the_writing_thread_raises_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> Path:
        raise RuntimeError("connection reset by peer")

    saver = CheckpointManager(tmp_path, keep=2, world=DistributedContext())
    # As with several ranks, of which one has just been killed.
    monkeypatch.setattr(saver, "_ranks", object())
    monkeypatch.setattr(saver, "_write_together", lose)
    save(saver, 2)
    with pytest.raises(CocaError, match="checkpoint was not finished: connection reset by peer"):
        saver.wait()
    assert saver.step == 0
    saver.wait()
