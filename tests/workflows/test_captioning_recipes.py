"""The paper's recipes for captions: they have the settings of its Table 10, and run unchanged."""

import json
from pathlib import Path

import pytest

from coca.core.config.frozen_config import load_config
from coca.data.sources.source import SplitConfig
from coca.workflows.training.finetune import FinetuneConfig, finetune
from tiny_data import image_bytes
from tiny_model import write_model

RECIPES = Path(__file__).parent.parent.parent / "recipes" / "finetune"
STEPS = {"coco_captions": 50_000, "nocaps": 10_000}


def config_of(name: str, *overrides: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, RECIPES / f"{name}.yaml", overrides=overrides)


@pytest.mark.parametrize("name", STEPS)
def test_a_recipe_has_the_settings_of_the_paper(name: str) -> None:
    config = config_of(name)
    train, loss = config.train, config.loss
    assert (train.steps, config.data.loader.batch_size) == (STEPS[name], 128)
    optimizer, schedule = train.optimizer, train.schedule
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adafactor", 1e-5, 0.1)
    assert (schedule.warmup, schedule.decay, schedule.final_lr_fraction) == (1000, "cosine", 0)
    assert (train.grad_clip, train.ema) == (1.0, None)
    assert (loss.contrastive_weight, loss.classification_weight) == (0, 0)
    assert loss.captioning_weight > 0
    assert config.data.augment.rand_augment is None
    # The public captions that papers call COCO train are two parts of the file.
    (source,) = config.data.sources
    assert isinstance(source, SplitConfig)
    assert source.splits == ("train", "restval")


def test_the_joint_mode_differs_from_captioning_alone_in_its_losses_only() -> None:
    alone, joint = config_of("flickr8k_captioning"), config_of("flickr8k_joint")
    assert alone.loss.contrastive_weight == 0 < joint.loss.contrastive_weight
    assert alone.loss.captioning_weight == joint.loss.captioning_weight
    for part in ("model", "data", "train", "evaluate", "weights", "seed"):
        assert getattr(alone, part) == getattr(joint, part)
    assert [task.task for task in joint.evaluate] == ["retrieval", "captioning"]


@pytest.fixture
def coco(tmp_path: Path) -> str:
    images = []
    for row, split in enumerate(("train", "train", "restval", "test", "test")):
        (tmp_path / f"{row}.jpg").write_bytes(image_bytes(row))
        sentences = [{"raw": f"a red car {row}"}, {"raw": f"two dogs play {row}"}]
        images.append({"filename": f"{row}.jpg", "split": split, "sentences": sentences})
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}))
    return str(path)


@pytest.mark.parametrize("name", ["coco_captions", "flickr8k_joint"])
def test_a_recipe_runs_as_it_is_but_smaller(name: str, tmp_path: Path, coco: str) -> None:
    test = "{kind: karpathy, path: " + coco + ", images: '', split: test}"
    train = "[{kind: karpathy, path: " + coco + ", images: '', split: [train, restval]}]"
    overrides = [
        f"run={tmp_path}/run",
        f"model={write_model(tmp_path / 'model')}",
        f"data.sources={train}",
        f"evaluate.0.data={test}",
        "data.loader.batch_size=3",
        "data.loader.workers=0",
        "train.steps=2",
        "train.schedule.warmup=0",
        "device=cpu",
    ]
    if name == "flickr8k_joint":
        overrides.append(f"evaluate.1.data={test}")
    result = finetune(config_of(name, *overrides))
    assert [score.samples for score in result.scores] == [2] * len(result.scores)
    assert "cider" in result.scores[-1].metrics
    assert ("contrastive" in result.metrics) == (name == "flickr8k_joint")
