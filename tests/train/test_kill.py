"""A real process, killed without warning, in training and during a save (fault tests F1 and F4)."""

import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from coca.model.checkpoint import CHECKPOINT_FOLDER, load_newest
from coca.train.optim.ema import EmaConfig
from tiny_ranks import start_process

pytestmark = pytest.mark.distributed

KILLS = int(os.environ.get("KILLS", "8"))
"""Number of kills, the first half during a save: `KILLS=20 pytest tests/train/test_kill.py`."""


def start(
    run_folder: Path, *, kill_at_sync: int | None = None, **settings: Any
) -> ForkServerProcess:
    return start_process(tiny_run.train_until_killed, run_folder, kill_at_sync, settings)


def finish(run_folder: Path, **settings: Any) -> None:
    process = start(run_folder, **settings)
    process.join()
    assert process.exitcode == 0


def assert_same_run(run_folder: Path, whole: Path) -> None:
    tiny_run.assert_same_checkpoint(run_folder, whole)
    ours, theirs = (tiny_run.newest(folder).state["random"] for folder in (run_folder, whole))
    assert ours == theirs
    assert tiny_run.rows(run_folder) == tiny_run.rows(whole)
    hidden = [path.name for path in (run_folder / CHECKPOINT_FOLDER).glob(".*")]
    assert not hidden


def newest_step(run_folder: Path) -> int:
    folders = (run_folder / CHECKPOINT_FOLDER).glob("step_*")
    return max((int(folder.name.removeprefix("step_")) for folder in folders), default=0)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    steps = 15 * KILLS + 30
    settings: dict[str, Any] = {
        "steps": steps,
        "save_every": 5,
        "log_every": 3,
        "ema": EmaConfig(decay=0.9),
    }
    finish(whole, **settings)
    generator = random.Random(0)
    for number in range(KILLS):
        if number >= KILLS // 2:
            enough = min(newest_step(run) + 5 * generator.randint(1, 3), steps - 5)
            process = start(run, loader=tiny_run.TinyStream(waits_at=steps - 1), **settings)
            while process.is_alive() and newest_step(run) < enough:
                time.sleep(0.002)
            time.sleep(generator.uniform(0, 0.05))
            os.kill(process.pid or 0, signal.SIGKILL)
        else:
            # The flushes of a save: four files, their folder, the folder around it.
            process = start(run, kill_at_sync=generator.randint(1, 18), **settings)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it could be killed"
    finish(run, **settings)
    assert_same_run(run, whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not interrupted, in a process of its own."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return folder


# 1 to 6 belong to the first save, 7 to 12 to the second, which has an older one to fall back to.
@pytest.mark.parametrize("flush", [1, 5, 6, 9])
def test_a_run_killed_during_a_save_ends_as_if_it_never_was(
    whole: Path, tmp_path: Path, flush: int
) -> None:
    run = tmp_path / "run"
    process = start(run, kill_at_sync=flush)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    committed = load_newest(run)
    assert (committed.step if committed else 0) == (0 if flush < 6 else 5)
    finish(run)
    assert_same_run(run, whole)
