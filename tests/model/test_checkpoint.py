import errno
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from coca.core.errors import ModelError, StorageError
from coca.model import checkpoint as module
from coca.model import sharded_safetensors
from coca.model.checkpoint import (
    CHECKPOINT_FOLDER,
    COMMIT_FILE,
    FORMAT_VERSION,
    STATE_FILE,
    Checkpoint,
    load_newest,
    remove_unfinished,
    save_checkpoint,
)
from limited_disk import limited_disk

MODEL_FILE, OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
FILES = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, COMMIT_FILE)


def save(folder: Path, step: int, *, keep: int = 2) -> Path:
    generator = torch.Generator().manual_seed(step)
    groups = {
        "model": {"weight": torch.randn(3, 4, generator=generator), "step": torch.tensor(step)},
        "optimizer": {"exp_avg/weight": torch.randn(3, 4, generator=generator).bfloat16()},
    }
    return save_checkpoint(
        folder,
        step,
        groups,
        state={"samples_seen": 10 * step, "loss": 0.1 + 0.2},
        keep=keep,
    )


def newest(folder: Path) -> Checkpoint:
    checkpoint = load_newest(folder)
    assert checkpoint is not None
    return checkpoint


def steps(folder: Path) -> list[int]:
    names = sorted(path.name for path in (folder / CHECKPOINT_FOLDER).iterdir())
    return [int(name.removeprefix("step_")) for name in names]


def test_a_saved_checkpoint_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, 100)
    assert folder == tmp_path / CHECKPOINT_FOLDER / "step_00000100"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    checkpoint = newest(tmp_path)
    generator = torch.Generator().manual_seed(100)
    assert checkpoint.step == 100
    assert checkpoint.folder == folder
    assert torch.equal(checkpoint.group("model")["weight"], torch.randn(3, 4, generator=generator))
    moment = torch.randn(3, 4, generator=generator).bfloat16()
    assert torch.equal(checkpoint.group("optimizer")["exp_avg/weight"], moment)
    assert checkpoint.state == {"samples_seen": 1000, "loss": 0.1 + 0.2}


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "absent") is None


def test_the_newest_stay_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (5, 10, 100_000_000, 15):
        save(tmp_path, step)
    # 100,000,000 came before 15, so it belongs to a run that resumed from an older step.
    assert steps(tmp_path) == [10, 15]
    assert newest(tmp_path).step == 15
    save(tmp_path, 20, keep=1)
    assert steps(tmp_path) == [20]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FOLDER / "step_mine").mkdir(parents=True)
    save(tmp_path, 5, keep=1)
    save(tmp_path, 6, keep=1)
    assert (tmp_path / CHECKPOINT_FOLDER / "step_mine").is_dir()
    assert newest(tmp_path).step == 6


def test_tensors_that_were_read_do_not_hang_on_their_files(tmp_path: Path) -> None:
    path = save(tmp_path, 1) / MODEL_FILE
    weight = newest(tmp_path).group("model")["weight"]
    before = weight.clone()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(weight, before)


def test_any_group_of_tensors_is_kept_and_no_other_invented(tmp_path: Path) -> None:
    averages = {"weight": torch.rand(2), "empty": torch.zeros(0, 3)}
    save_checkpoint(tmp_path, 1, {"model": {}, "ema": averages}, state={})
    checkpoint = newest(tmp_path)
    assert torch.equal(checkpoint.group("ema")["weight"], averages["weight"])
    assert checkpoint.group("ema")["empty"].shape == (0, 3)
    assert checkpoint.group("model") == {}
    assert checkpoint.group("optimizer") == {}


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend"])
@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_detected_and_the_older_one_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    generator = random.Random(f"{name} {damage}")
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    whole = path.read_bytes()
    for _ in range(80):
        position = generator.randrange(len(whole))
        if damage == "flip":
            flipped = whole[position] ^ (1 << generator.randrange(8))
            content = whole[:position] + bytes([flipped]) + whole[position + 1 :]
        else:
            content = whole[:position] if damage == "truncate" else whole + whole[: position + 1]
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert newest(tmp_path).step == 1
        assert str(path.parent) in caplog.text
        assert name in caplog.text
    path.write_bytes(whole)
    assert newest(tmp_path).step == 2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_detected(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / name).unlink()
    assert newest(tmp_path).step == 1


def test_a_folder_under_a_wrong_name_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    folder.rename(folder.with_name("step_00000009"))
    assert newest(tmp_path).step == 1
    assert "contains step 2" in caplog.text


def test_a_run_with_damaged_checkpoints_only_does_not_start_again(tmp_path: Path) -> None:
    (save(tmp_path, 1) / MODEL_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match=r"no checkpoint .* is whole .*model.safetensors"):
        load_newest(tmp_path)


def test_a_newer_format_is_refused_and_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORMAT_VERSION", FORMAT_VERSION + 1)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(ModelError, match=f"format_version {FORMAT_VERSION + 1}"):
        load_newest(tmp_path)


def test_files_damaged_or_gone_before_their_tensors_are_read_raise(tmp_path: Path) -> None:
    path = save(tmp_path, 1) / MODEL_FILE
    checkpoint = newest(tmp_path)
    path.write_bytes(b"{}")
    with pytest.raises(ModelError, match="step_00000001 cannot be read"):
        checkpoint.group("model")
    shutil.rmtree(checkpoint.folder)
    with pytest.raises(ModelError, match=r"step_00000001 cannot be read: .*No such file"):
        checkpoint.group("model")


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / MODEL_FILE).write_bytes(b"")
    save(tmp_path, 2)
    assert newest(tmp_path).step == 2


def test_going_on_behind_a_damaged_newer_one_never_removes_the_good(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=1)
    (save(tmp_path, 9) / MODEL_FILE).write_bytes(b"")
    assert newest(tmp_path).step == 1
    save(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [2]
    assert newest(tmp_path).step == 2


def test_a_state_that_json_cannot_hold_fails_before_the_rename(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 1, {"model": {}}, state={"loss": float("nan")})
    assert steps(tmp_path) == []


@pytest.mark.parametrize("failing", range(4))
def test_a_save_that_fails_midway_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    save(tmp_path, 1)
    written: list[object] = []

    def until_full(real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def write(*args: object) -> Any:
            if len(written) == failing:
                raise error
            written.append(args)
            return real(*args)

        return write

    no_space = OSError(errno.ENOSPC, "No space left on device")
    sealed = SafetensorError("I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(sharded_safetensors, "save_file", until_full(save_file, sealed))
    monkeypatch.setattr(Path, "write_bytes", until_full(Path.write_bytes, no_space))
    with pytest.raises(StorageError, match=r"step_00000002 cannot be written: .*No space left"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    assert newest(tmp_path).step == 1


def test_a_disk_that_is_really_full_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    with limited_disk(tmp_path, kind="tmpfs", size_mb=1) as disk:

        def save_bytes(step: int, count: int) -> None:
            moments = {"exp_avg/weight": torch.zeros(count, dtype=torch.uint8)}
            save_checkpoint(disk.folder, step, {"optimizer": moments}, state={})

        save_bytes(1, 200_000)
        with pytest.raises(StorageError, match="No space left"):
            save_bytes(2, 1_600_000)
        assert steps(disk.folder) == [1]
        assert newest(disk.folder).step == 1
        save_bytes(3, 200_000)
        assert newest(disk.folder).step == 3


def test_what_a_killed_save_left_is_never_loaded_and_is_removed(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    for name in (".incomplete-step_00000002", ".replaced-step_00000001"):
        shutil.copytree(folder, folder.with_name(name))
    assert newest(tmp_path).step == 1
    remove_unfinished(tmp_path)
    assert steps(tmp_path) == [1]
