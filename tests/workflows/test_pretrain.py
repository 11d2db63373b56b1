import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from coca.core.config import load_config
from coca.core.errors import ConfigError, DataError
from coca.inference.predictor import load
from coca.train.tracker import read_metrics
from coca.workflows.pretrain import PretrainConfig, pretrain

NAMES = ("red square", "green square", "blue square", "yellow square")
COLORS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30))

RECIPE = {
    "model": {
        "image": {
            "image_size": 16,
            "patch_size": 8,
            "width": 32,
            "layers": 1,
            "heads": 2,
            "mlp_width": 32,
        },
        "text": {
            "vocab_size": 300,
            "context_length": 24,
            "width": 32,
            "heads": 2,
            "mlp_width": 32,
            "unimodal_layers": 1,
            "multimodal_layers": 1,
        },
        "pooler": {"captioning_queries": 2, "heads": 2},
        "embed_dim": 32,
    },
    "data": {"sources": [{"kind": "folder"}], "loader": {"batch_size": 4}},
    "train": {
        "steps": 12,
        "log_every": 4,
        "save_every": 5,
        "optimizer": {"lr": 0.003},
        "schedule": {"warmup": 2},
    },
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Squares in a few colours, each with its caption beside it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, (name, color) in enumerate(zip(NAMES * 3, COLORS * 3, strict=True)):
        pixels = np.full((20, 20, 3), color) + generator.integers(-20, 20, (20, 20, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
        (folder / f"{number}.txt").write_text(name)
    return folder


def recipe(pictures: Path, run: Path, *overrides: str) -> PretrainConfig:
    return load_config(
        PretrainConfig,
        RECIPE,
        overrides=[f"run={run}", f"data.sources.0.path={pictures}", *overrides],
    )


def test_a_run_leaves_a_model_that_loads_from_its_folder_alone(
    pictures: Path, tmp_path: Path
) -> None:
    result = pretrain(recipe(pictures, tmp_path / "run"))
    assert (result.step, result.interrupted) == (12, False)
    assert result.figures["loss"] > 0
    predictor = load(result.model)
    assert predictor.embed_images(sorted(pictures.glob("*.png"))[:2]).shape == (2, 32)
    assert load(result.run).fingerprint == predictor.fingerprint
    assert {path.suffix for path in result.model.iterdir()} == {".json", ".safetensors"}


def test_a_longer_run_learns_to_tell_the_colours(pictures: Path, tmp_path: Path) -> None:
    result = pretrain(
        recipe(pictures, tmp_path / "run", "train.steps=150", "data.loader.batch_size=12")
    )
    predictor = load(result.model)
    found = predictor.classify([pictures / f"{number}.png" for number in range(4)], NAMES)
    assert [predictions[0].label for predictions in found] == list(NAMES)
    captions = predictor.caption([pictures / f"{number}.png" for number in range(4)])
    assert [caption.text for caption in captions] == list(NAMES)


def test_a_run_in_two_parts_equals_the_run_in_one(pictures: Path, tmp_path: Path) -> None:
    whole = pretrain(recipe(pictures, tmp_path / "whole", "data.augment.flip=0.5"))
    changes = ("data.augment.flip=0.5", "train.schedule.decay=constant")
    first = recipe(pictures, tmp_path / "parts", "train.steps=5", *changes)
    pretrain(first)
    rest = pretrain(recipe(pictures, tmp_path / "parts", *changes))
    straight = pretrain(recipe(pictures, tmp_path / "straight", *changes))
    one = load_file(straight.model / "model.safetensors")
    two = load_file(rest.model / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.step == rest.step


def test_a_finished_run_is_not_trained_again(pictures: Path, tmp_path: Path) -> None:
    config = recipe(pictures, tmp_path / "run")
    before = load(pretrain(config).model).fingerprint
    assert load(pretrain(config).model).fingerprint == before
    starts = json.loads((tmp_path / "run" / "record.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[0]["seed"] == 0


def test_the_folder_tells_what_was_run(pictures: Path, tmp_path: Path) -> None:
    config = recipe(pictures, tmp_path / "run")
    pretrain(config)
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert load_config(PretrainConfig, kept) == config
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [4, 8, 12]


@pytest.mark.parametrize("change", ["seed=1", "tokenizer.lowercase=false"])
def test_a_run_refuses_to_go_on_as_another(pictures: Path, tmp_path: Path, change: str) -> None:
    pretrain(recipe(pictures, tmp_path / "run"))
    with pytest.raises(ConfigError, match="give the new run another folder"):
        pretrain(recipe(pictures, tmp_path / "run", change))


def test_changed_data_settings_are_told(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(recipe(pictures, tmp_path / "run", "train.steps=5"))
    with caplog.at_level(logging.WARNING):
        pretrain(recipe(pictures, tmp_path / "run", "data.augment.flip=0.5"))
    assert "goes on with changed settings of data" in caplog.text


def test_labels_and_captions_can_be_mixed(pictures: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for source in sorted(pictures.glob("*.png"))[:2]:
            (tmp_path / "classes" / name / source.name).write_bytes(source.read_bytes())
    labels = f"{{kind: folder, path: {tmp_path / 'classes'}, text: labels}}"
    captions = f"{{kind: folder, path: {pictures}}}"
    pretrain(recipe(pictures, tmp_path / "run", f"data.sources=[{captions}, {labels}]"))
    words = load(tmp_path / "run").processor.tokenizer
    # The template's words were learned as well: few tokens are needed.
    assert len(words.encode_prompt("a photo of the cat")) < 8


def test_a_classification_loss_needs_its_classes() -> None:
    wanted = "set both or neither"
    with pytest.raises(ConfigError, match=wanted):
        recipe(Path("p"), Path("r"), "loss.classification_weight=1")
    with pytest.raises(ConfigError, match=r"num_classes is 0, but data\.loader"):
        recipe(
            Path("p"),
            Path("r"),
            "loss.classification_weight=1",
            "data.loader.class_names=[cat, dog]",
        )


def test_a_tokenizer_larger_than_the_model_is_refused(pictures: Path, tmp_path: Path) -> None:
    pretrain(recipe(pictures, tmp_path / "run", "train.steps=3"))
    kept = tmp_path / "run" / "tokenizer.json"
    with pytest.raises(ConfigError, match=r"raise it to \d+"):
        pretrain(
            recipe(
                pictures, tmp_path / "next", f"tokenizer.path={kept}", "model.text.vocab_size=200"
            )
        )


def test_a_recipe_without_sources_or_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sources is empty"):
        recipe(tmp_path, tmp_path / "run", "data.sources=[]")
    with pytest.raises(DataError):
        pretrain(recipe(tmp_path / "nowhere", tmp_path / "run"))
