import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from coca.core.errors import ModelError
from coca.model.openclip.state_dict_io import read_state

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.5)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w.pth", "w.safetensors"])
def test_weights_are_read_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path)
    assert equal(read_state(path), STATE)


def test_files_from_before_torch_wrote_archives_are_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "w.bin")
    assert equal(read_state(tmp_path / "w.bin"), STATE)


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict"])
def test_weights_of_a_checkpoint_of_parallel_training_are_found(tmp_path: Path, nest: str) -> None:
    inner = {f"module.{name}": tensor for name, tensor in STATE.items()}
    torch.save({"epoch": 3, nest: inner, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert equal(read_state(tmp_path / "w.pt"), STATE)


class Bomb:
    """Creates a file when it is unpickled without restrictions."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_with_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, archive: bool
) -> None:
    marker = tmp_path / "the code ran"
    content = {**STATE, "surprise": Bomb(marker)}
    if archive:
        torch.save(content, tmp_path / "w.bin")
    else:
        (tmp_path / "w.bin").write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match="is refused: it is damaged, or contains code"):
        read_state(tmp_path / "w.bin")
    assert not marker.exists()
    # The payload works.
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("w.safetensors", b"no", "damaged or no safetensors file"),
        ("w.bin", b"", "damaged or no file of weights"),
        ("w.bin", b"hello, world", "damaged"),
    ],
)
def test_a_damaged_file_raises(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        read_state(tmp_path / name)


def test_a_truncated_archive_raises(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.bin")
    content = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="damaged"):
        read_state(tmp_path / "w.bin")


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a file"):
        read_state(tmp_path / "nowhere.bin")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (torch.zeros(2), "no weights by name, but Tensor"),
        ({}, "no weights by name"),
        ({"a": 3}, "'a' has the type int"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(ModelError, match=sentence):
        read_state(tmp_path / "w.bin")
