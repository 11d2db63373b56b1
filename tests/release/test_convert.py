import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from coca.core.errors import ConfigError, ModelError
from coca.inference import loading
from coca.inference.loading import fingerprint
from coca.inference.model_kinds import MODEL_FILES
from coca.model.pretrained import MODULES_FILE
from coca.release.convert import convert
from tiny_model import write_model
from tiny_openclip import ABOUT, WEIGHTS, model_cfg, tiny_peer, write_open_clip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return write_open_clip(tmp_path / "theirs")


def test_a_file_of_weights_becomes_a_folder_that_loads(
    theirs: Path, tmp_path: Path, cache: Path
) -> None:
    for number, source in enumerate((theirs, theirs / WEIGHTS)):
        out = convert(source, tmp_path / f"ours{number}")
        assert sorted(path.name for path in out.iterdir()) == sorted(
            [*MODEL_FILES, MODULES_FILE, "source.json"]
        )
        assert loading.load(out).embed_texts("the cat").shape == (1, 64)
    # What is converted is not kept twice.
    assert not cache.exists()


def test_a_folder_is_copied_without_unrelated_files(tmp_path: Path) -> None:
    write_model(tmp_path / "run" / "model")
    (tmp_path / "run" / "model" / "notes.txt").write_text("mine")
    out = convert(tmp_path / "run", tmp_path / "copy")
    assert sorted(path.name for path in out.iterdir()) == sorted([*MODEL_FILES, MODULES_FILE])


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "deep/w.pt"])
def test_there_and_back_changes_no_bit(theirs: Path, tmp_path: Path, name: str) -> None:
    ours = convert(theirs, tmp_path / "ours")
    back = convert(ours, tmp_path / name)
    assert back == tmp_path / name
    state = load_file(back) if back.suffix == ".safetensors" else torch.load(back)
    wanted = torch.load(theirs / WEIGHTS)
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert not list(tmp_path.rglob(".incomplete-*"))
    again = convert(back, tmp_path / "again", vocabulary=theirs / "tokenizer.json")
    assert fingerprint(again) == fingerprint(ours)
    assert (again / "config.json").read_bytes() == (ours / "config.json").read_bytes()


def test_open_clip_loads_the_folder_written_for_it(theirs: Path, tmp_path: Path) -> None:
    ours = convert(theirs, tmp_path / "ours")
    out = convert(ours, tmp_path / "coca_back", to="openclip")
    assert sorted(path.name for path in out.iterdir()) == [ABOUT, "open_clip_model.safetensors"]
    about: dict[str, Any] = json.loads((out / ABOUT).read_text())
    assert about["preprocess_cfg"]["resize_mode"] == "shortest"
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{out}")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.eval().encode_image(images), tiny_peer().encode_image(images))
    assert transform.transforms[0].size == 16


def test_the_class_mask_survives_in_a_folder_and_refuses_a_file(
    theirs: Path, tmp_path: Path
) -> None:
    about = {"model_cfg": model_cfg()}
    about["model_cfg"]["text_cfg"]["correct_cls_mask"] = True
    (theirs / ABOUT).write_text(json.dumps(about))
    ours = convert(theirs, tmp_path / "ours")
    out = convert(ours, tmp_path / "back", to="openclip")
    again = convert(out, tmp_path / "again", vocabulary=theirs / "tokenizer.json")
    before, after = (loading.load(it).embed_texts("the cat") for it in (ours, again))
    assert np.array_equal(before, after)
    with pytest.raises(
        ModelError, match=r"weights alone and lose .*class_mask corrected; name a folder"
    ):
        convert(ours, tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_model_of_the_paper_cannot_become_one_of_open_clip(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    with pytest.raises(ModelError, match="OpenCLIP has no model"):
        convert(tmp_path / "model", tmp_path / "w.bin")
    assert not (tmp_path / "w.bin").exists()


def test_a_folder_cannot_go_into_a_file(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a folder"):
        convert(theirs, tmp_path / "w.bin", to="coca")
