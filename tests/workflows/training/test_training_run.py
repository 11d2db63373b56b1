from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coca.core.errors import ConfigError
from coca.model.encoders.timm import TimmConfig
from coca.train.tracker import read_metrics
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from tiny_workflows import recipe, stopping_at, write_squares


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "pictures")


def distilled(image_folder: Path, run: Path, *changes: str) -> PretrainConfig:
    config = recipe(
        image_folder,
        run,
        "loss.distillation.classes=8",
        "train.steps=6",
        "train.optimizer.freeze=[image_encoder.backbone]",
        *changes,
    )
    image = TimmConfig(name="test_resnet", image_size=32, width=32, classes=1000)
    return replace(
        config,
        model=replace(config.model, image=image),
        loss=replace(config.loss, distillation_weight=0.5),
    )


def test_a_resumed_run_draws_the_same_classes(image_folder: Path, tmp_path: Path) -> None:
    whole = pretrain(distilled(image_folder, tmp_path / "whole"))
    pretrain(distilled(image_folder, tmp_path / "parts"), progress=stopping_at(3))
    parts = pretrain(distilled(image_folder, tmp_path / "parts"))
    one, other = (load_file(it.model / "model.safetensors") for it in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_metrics(tmp_path / "whole")[-1]["distillation"] > 0


def test_sources_may_be_left_out(image_folder: Path, tmp_path: Path) -> None:
    config = distilled(image_folder, tmp_path / "run", "data.sources.0.distill=false")
    pretrain(config)
    assert read_metrics(tmp_path / "run")[-1]["distillation"] == 0


def test_an_encoder_without_a_classifier_cannot_teach(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distillation_weight is 0\.5, but the image encoder ha"):
        pretrain(recipe(image_folder, tmp_path / "run", "loss.distillation_weight=0.5"))
