"""Recipes for questions and statements: the settings of the paper, run at a small size."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import coca
from coca.core.config.frozen_config import load_config
from coca.data.sources.source import SourceConfig
from coca.data.sources.zip_archive import ZipConfig
from coca.workflows.training.finetune import FinetuneConfig, finetune
from tiny_data import image_bytes
from tiny_datasets import write_easy_vqa, write_nlvr2, write_snli_ve, write_vqa
from tiny_model import write_model

RECIPES = Path(__file__).parents[2] / "recipes" / "finetune"

# Table 10: steps, batch, learning rate of pooler and encoder, RandAugment, images.
TABLE_10: dict[str, tuple[Any, ...]] = {
    "vqa_v2": (100_000, 64, 5e-4, 2e-5, (1, 10), 1),
    "snli_ve": (50_000, 128, 1e-3, 5e-5, (1, 10), 1),
    "nlvr2": (50_000, 64, 5e-4, 2e-5, None, 2),
}


@pytest.mark.parametrize("name", TABLE_10)
def test_a_recipe_of_the_paper_has_the_settings_of_its_table_10(name: str) -> None:
    config = load_config(FinetuneConfig, RECIPES / f"{name}.yaml")
    optimizer, schedule = config.train.optimizer, config.train.schedule
    assert config.head is not None
    found = (
        config.train.steps,
        config.data.loader.batch_size,
        optimizer.lr,
        config.encoder_lr,
        config.data.augment.rand_augment,
        config.head.images_per_sample,
    )
    assert found == TABLE_10[name]
    assert (optimizer.name, optimizer.weight_decay) == ("adafactor", 0.1)
    assert (schedule.warmup, schedule.decay, schedule.final_lr_fraction) == (1000, "cosine", 0.0)
    assert (config.train.grad_clip, config.train.ema) == (1.0, None)
    assert config.head.reads == "text"
    loss = config.loss
    assert (loss.contrastive_weight, loss.classification_weight) == (0, 1)
    assert (loss.captioning_weight > 0) == (name == "vqa_v2")
    assert config.head.most_frequent == (3129 if name == "vqa_v2" else 0)


def write_zip(path: Path, rows: list[dict[str, Any]]) -> SourceConfig:
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for number, row in enumerate(rows):
            file.writestr(row["image"], image_bytes(number))
        file.writestr("meta.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return ZipConfig(path=str(path))


def write_indoor_photos(root: Path) -> SourceConfig:
    rows = [
        {
            "image": f"{number}.png",
            "question": f"what is {number % 3}",
            "answer": ("bed, garbage_bin", "chair")[number % 2],
        }
        for number in range(10)
    ]
    return write_zip(root / "rooms.zip", rows)


def write_boxes(root: Path) -> SourceConfig:
    rows = [
        {
            "image": f"{number}.png",
            "sentence": f"There are {number % 3} boxes.",
            "label": ("true", "false")[number % 2],
            "split": ("train", "val")[number // 8],
        }
        for number in range(12)
    ]
    return write_zip(root / "boxes.zip", rows)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("vqa_v2", write_vqa),
        ("snli_ve", write_snli_ve),
        ("nlvr2", write_nlvr2),
        ("easy_vqa", write_easy_vqa),
        ("daquar", write_indoor_photos),
        ("nlvr", write_boxes),
    ],
)
def test_a_recipe_runs_as_it_is_on_data_in_the_published_format(
    name: str, write: Callable[[Path], SourceConfig], tmp_path: Path
) -> None:
    data = asdict(write(tmp_path / "data"))
    there = {key: data[key] for key in ("path", "images") if key in data}
    recipe = load_config(FinetuneConfig, RECIPES / f"{name}.yaml")
    tasks = {
        str(number): {"data": there, **({"reference": there} if task.reference else {})}
        for number, task in enumerate(recipe.evaluate)
    }
    smaller = {
        "run": str(tmp_path / "run"),
        "model": str(write_model(tmp_path / "model", context=16)),
        "image_size": None,
        "head": {"heads": 3},
        "data": {"sources": {"0": there}, "loader": {"batch_size": 4, "workers": 0}},
        "train": {"steps": 2, "precision": "fp32", "schedule": {"warmup": 1}},
        "evaluate": tasks,
    }
    result = finetune(load_config(FinetuneConfig, RECIPES / f"{name}.yaml", smaller))
    assert (result.step, result.interrupted) == (2, False)
    assert [score.task for score in result.scores] == [task.task for task in recipe.evaluate]
    for score in result.scores:
        assert score.samples > 0
        assert score.bad == ()
        assert 0 <= score.metrics["accuracy"] <= 1
        assert 0 <= score.metrics["majority_accuracy"] <= 1
    report = (tmp_path / "run" / "scores" / "report.md").read_text()
    assert ("the paper" in report) == (name in TABLE_10)
    predictor = coca.load(result.model, device="cpu")
    images = [image_bytes(1)] * (recipe.head.images_per_sample if recipe.head else 1)
    (best,) = predictor.answer([images], ["what is it?"])
    assert best[0].label in predictor.classes
