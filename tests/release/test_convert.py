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
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.pretrained import MODULES_FILE, load_model, save_model
from coca.processing.image import ImageConfig
from coca.processing.processor import Processor
from coca.release.convert import average, convert
from tiny import ENCODERS, seed_weights
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


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return loading.load(folder, device="cpu", prepack=False).model.state_dict()


@pytest.mark.parametrize(("shares", "first"), [((), 0.5), ((3.0, 1.0), 0.75)])
def test_an_average_lies_between_its_models(
    tmp_path: Path, shares: tuple[float, ...], first: float
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        write_model(folder, seed=seed)
    made = average(folders, tmp_path / "mean", shares=shares)
    one, two, mean = map(weights_of, (*folders, made))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, first * one[name] + (1 - first) * two[name])
    assert sorted(it.name for it in made.iterdir()) == sorted([*MODEL_FILES, MODULES_FILE])


def test_an_average_of_equal_models_is_that_model(tmp_path: Path) -> None:
    write_model(tmp_path / "one")
    made = average([tmp_path / "one"] * 3, tmp_path / "mean", shares=(1.0, 2.0, 4.0))
    assert fingerprint(made) == fingerprint(tmp_path / "one")


def test_an_average_keeps_caveats_but_not_the_digest_of_a_file(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / name) for name in ("one", "two")]
    for folder, caveat in zip(folders, ("", "beware"), strict=True):
        known = {"source": folder.name, "sha256": "0" * 64, "caveat": caveat}
        (folder / "source.json").write_text(json.dumps(known))
    made = average(folders, tmp_path / "mean")
    assert json.loads((made / "source.json").read_text()) == {
        "source": "an average of weights",
        "caveat": "two: beware",
    }
    assert not (average(folders[:1] * 2, tmp_path / "same") / "source.json").exists()


def test_models_that_differ_in_more_than_weights_have_no_average(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_model(tmp_path / name)
    settings = tmp_path / "two" / "config.json"
    content = json.loads(settings.read_text())
    content["model"]["embed_dim"] *= 2
    settings.write_text(json.dumps(content))
    vocabulary = tmp_path / "three" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text() + " ")
    for other, what in (("two", "configuration"), ("three", "tokenizer")):
        with pytest.raises(ModelError, match=rf"{other} has another {what} than .*one"):
            average([tmp_path / "one", tmp_path / other], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def write_encoder(folder: Path, name: str, *, seed: int) -> Path:
    """A model with this encoder of `ENCODERS`."""
    config = load_model(write_model(folder)).config
    assert isinstance(config, CoCaConfig)
    seed_weights(seed)
    save_model(folder, CoCa(config.replace(image=ENCODERS[name])))
    processor = Processor.load(folder)
    processor.with_image(ImageConfig(image_size=32)).save(folder)
    return folder


def test_a_class_branch_that_one_model_lacks_is_that_of_the_other(tmp_path: Path) -> None:
    folders = [
        write_encoder(tmp_path / name, name, seed=seed)
        for seed, name in enumerate(("lite", "branch"))
    ]
    before, after = map(weights_of, folders)
    made = average(folders, tmp_path / "mean", shares=(0.4, 0.6), class_scale=0.7)
    mean = weights_of(made)
    assert mean.keys() == after.keys() > before.keys()
    for name, tensor in mean.items():
        wanted = 0.4 * before[name] + 0.6 * after[name] if name in before else after[name]
        if name == "class_branch.scale":
            wanted = torch.tensor(0.7)
        torch.testing.assert_close(tensor, wanted.to(tensor.dtype))
    learned = weights_of(average(folders, tmp_path / "learned"))["class_branch.scale"]
    assert torch.equal(learned, after["class_branch.scale"])


@pytest.mark.parametrize(("name", "scale", "has"), [("lite", 0.7, "no"), ("branch", -0.1, "a")])
def test_a_class_scale_needs_a_class_branch_and_is_not_negative(
    tmp_path: Path, name: str, scale: float, has: str
) -> None:
    folder = write_encoder(tmp_path / "one", name, seed=0)
    with pytest.raises(ConfigError, match=f"at least 0, .* got {scale} and {has} class branch"):
        average([folder, folder], tmp_path / "mean", class_scale=scale)


@pytest.mark.parametrize(("count", "shares"), [(1, ()), (2, (1.0,)), (2, (1.0, 0.0))])
def test_an_average_needs_two_models_with_a_share_each(
    tmp_path: Path, count: int, shares: tuple[float, ...]
) -> None:
    write_model(tmp_path / "one")
    with pytest.raises(ConfigError, match="at least 2 models, each with a share above 0"):
        average([tmp_path / "one"] * count, tmp_path / "mean", shares=shares)
