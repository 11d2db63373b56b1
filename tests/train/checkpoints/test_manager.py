from pathlib import Path

import pytest
import torch

from coca.core.errors import CocaError, StorageError
from coca.train.checkpoints.checkpoint import CHECKPOINT_FOLDER, load_newest, step_folder
from coca.train.checkpoints.manager import CheckpointManager
from coca.train.distributed.context import DistributedContext

GROUPS = {"model": {"weight": torch.ones(2)}}


def save(saver: CheckpointManager, step: int) -> None:
    saver.save(step, GROUPS, state={"run": "first"}, own={"random": step})


def test_one_process_saves_at_once_what_is_of_the_run_and_what_is_its_own(tmp_path: Path) -> None:
    saver = CheckpointManager(tmp_path, keep=2, world=DistributedContext())
    assert saver.kept() == "does not exist yet"
    save(saver, 3)
    checkpoint = load_newest(tmp_path)
    assert checkpoint is not None
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
