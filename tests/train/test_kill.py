"""A real process, killed without warning, in training and during a save (fault tests F1 and F4)."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tiny_run
from coca.train.checkpoint import CHECKPOINT_FOLDER, load_newest


def start(run_folder: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, tiny_run.__file__, str(run_folder), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_same_run(run_folder: Path, whole: Path) -> None:
    ours, theirs = load_newest(run_folder), load_newest(whole)
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step
    for mine, other in ((ours.model, theirs.model), (ours.optimizer, theirs.optimizer)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    # Python's generator is left out: the type checker of these tests draws from it.
    for generator in ("numpy", "torch"):
        assert ours.state["random"][generator] == theirs.state["random"][generator]
    assert tiny_run.rows(run_folder) == tiny_run.rows(whole)
    hidden = [path.name for path in (run_folder / CHECKPOINT_FOLDER).glob(".*")]
    assert not hidden


def newest_step(run_folder: Path) -> int:
    folders = (run_folder / CHECKPOINT_FOLDER).glob("step_*")
    return max((int(folder.name.removeprefix("step_")) for folder in folders), default=0)


def test_a_run_killed_again_and_again_ends_as_if_it_never_was(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    tiny_run.tiny_trainer(whole, steps=140, save_every=7).fit()
    generator = random.Random(0)
    for _ in range(3):
        process = start(run, "--steps", "140", "--save-every", "7")
        # Steps and not seconds, so that a fast machine is not done before it is killed.
        enough = newest_step(run) + 7 * generator.randint(1, 3)
        while process.poll() is None and newest_step(run) < enough:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    tiny_run.tiny_trainer(run, steps=140, save_every=7).fit()
    assert_same_run(run, whole)


# The flushes of one save: four files, their folder, the folder around it. 1 to 6 belong to the
# first save, 7 to 12 to the second, which has an older checkpoint to fall back to.
@pytest.mark.parametrize("flush", [1, 5, 6, 9])
def test_a_run_killed_during_a_save_ends_as_if_it_never_was(tmp_path: Path, flush: int) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    tiny_run.tiny_trainer(whole).fit()
    assert start(run, "--kill-at-sync", str(flush)).wait() == -signal.SIGKILL
    committed = load_newest(run)
    assert (committed.step if committed else 0) == (0 if flush < 6 else 5)
    tiny_run.tiny_trainer(run).fit()
    assert_same_run(run, whole)
