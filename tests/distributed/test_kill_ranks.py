"""One rank of two is killed without warning; the other ends, and the run goes on exactly."""

import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from coca.model.checkpoint import CHECKPOINT_FOLDER, load_newest
from coca.train.distributed.parallel import Kind
from tiny_ranks import HANGING_S, start_ranks
from tiny_shared_run import KINDS, train_until_killed

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

KILLS = int(os.environ.get("KILLS", "2"))
"""Number of kills of each kind; more take minutes."""
SETTINGS: dict[str, Any] = {"steps": 9 * KILLS, "save_every": 3}


def newest_step(run: Path) -> int:
    folders = (run / CHECKPOINT_FOLDER).glob("step_*")
    return max((int(folder.name.removeprefix("step_")) for folder in folders), default=0)


def train(folder: Path, run: Path, kind: Kind, kill: tuple[int, int | None] | None = None) -> Any:
    return start_ranks(2, folder, partial(train_until_killed, run, kind, kill, SETTINGS))


def finish(folder: Path, run: Path, kind: Kind) -> None:
    for process in train(folder, run, kind):
        process.join(HANGING_S)
        assert process.exitcode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_whose_ranks_are_killed_ends_as_if_they_never_were(
    tmp_path: Path, kind: Kind
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(tmp_path, whole, kind)
    generator = random.Random(kind)
    for number in range(KILLS):
        # The first half during a save. Each kind begins with another rank.
        victim = (number + number // 2 + KINDS.index(kind)) % 2
        if number >= KILLS // 2:
            enough = min(newest_step(run) + 3, SETTINGS["steps"] - 3)
            ranks = train(tmp_path, run, kind, (victim, None))
            while ranks[victim].is_alive() and newest_step(run) < enough:
                time.sleep(0.002)
            time.sleep(generator.uniform(0, 0.05))
            os.kill(ranks[victim].pid, signal.SIGKILL)
        else:
            # The flushes of a save: rank 1 has those of its two shards, rank 0 has more.
            ranks = train(tmp_path, run, kind, (victim, generator.randint(1, 9 if victim else 20)))
        for process in ranks:
            process.join(HANGING_S)
        codes = [process.exitcode for process in ranks]
        assert codes[victim] == -signal.SIGKILL, "the run was over before it could be killed"
        assert codes[1 - victim] not in (0, None), "the other rank hangs, or believes to be done"
        load_newest(run)
    finish(tmp_path, run, kind)
    tiny_run.assert_same_checkpoint(run, whole)
    assert newest_step(run) == SETTINGS["steps"]
    assert tiny_run.rows(run) == tiny_run.rows(whole)
    assert not list((run / CHECKPOINT_FOLDER).glob(".*"))
