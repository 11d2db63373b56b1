"""Two ranks that evaluate and track their run are killed twice; it ends as if they never were."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny_run
from coca.model.checkpoint import checkpoint_folders, load_newest
from coca.train.tracker import read_metrics
from coca.workflows.training.runs import best_of
from tiny_ranks import HANGING_S, start_ranks
from tiny_workflows import watched_run, write_squares

STEPS = int(os.environ.get("STEPS", "30"))
"""Length of the run: `STEPS=200 pytest tests/distributed/test_kill_watched.py`."""
COMPILE = bool(os.environ.get("COMPILE"))
"""Whether the blocks are compiled, which takes minutes: `COMPILE=1 pytest ...`."""
LIMIT_S = HANGING_S + (20 if COMPILE else 2) * STEPS
"""Maximum time of a run, of which the test has two and two killed ones."""

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]


def changes(images: Path) -> tuple[str, ...]:
    source = f"{{kind: folder, path: {images}}}"
    return (
        f"train.steps={STEPS}",
        f"train.compile={str(COMPILE).lower()}",
        "train.save_every=5",
        "train.log_every=2",
        "train.ema.decay=0.9",
        "train.schedule.patch_dropout=0.5",
        "data.augment.flip=0.5",
        "train.trackers=[jsonl, wandb]",
        "eval.every=4",
        f"eval.sources=[{source}]",
        "eval.samples=8",
        f"eval.tasks=[{{task: retrieval, data: {source}}}, {{task: captioning, data: {source}}}]",
        "eval.captions=2",
    )


def steps_done(run: Path) -> int:
    rows = read_metrics(run)
    return rows[-1]["step"] if rows else 0


def test_a_watched_run_that_is_killed_twice_equals_one_that_was_not(
    tmp_path: Path,
) -> None:
    pytest.importorskip("wandb")
    images = write_squares(tmp_path / "pictures")
    whole, run = tmp_path / "whole", tmp_path / "run"

    def train(folder: Path) -> None:
        for process in start_ranks(
            2, tmp_path, partial(watched_run, images, folder, *changes(images))
        ):
            process.join(LIMIT_S)
            assert process.exitcode == 0

    train(whole)
    for kill in (1, 2):
        ranks = start_ranks(2, tmp_path, partial(watched_run, images, run, *changes(images)))
        # Checkpoints are written while the run goes on.
        while ranks[0].is_alive() and not (
            steps_done(run) >= kill * STEPS // 3 and checkpoint_folders(run)
        ):
            time.sleep(0.005)
        for process in ranks:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join(HANGING_S)
        assert ranks[0].exitcode == -signal.SIGKILL, "the run was over before it could be killed"
        assert checkpoint_folders(run)
    train(run)
    ours, theirs = load_newest(run), load_newest(whole)
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == STEPS
    for group in ("model", "optimizer", "ema"):
        mine, other = ours.group(group), theirs.group(group)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert tiny_run.rows(run) == tiny_run.rows(whole)
    assert best_of(run) == best_of(whole)
    best, expected = (load_file(it / "best" / "model.safetensors") for it in (run, whole))
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    captions = f"samples/step_{STEPS:08d}/captions.jsonl"
    assert (run / captions).read_bytes() == (whole / captions).read_bytes()
