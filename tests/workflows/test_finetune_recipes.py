"""The paper's recipes for recognition: they have the settings of its Table 9, and run unchanged."""

from pathlib import Path

import pytest

from coca.core.config.frozen_config import load_config
from coca.workflows.training.finetune import FinetuneConfig, finetune
from tiny_model import write_model
from tiny_workflows import write_classes

RECIPES = Path(__file__).parent.parent.parent / "recipes" / "finetune"

TABLE_9 = {  # encoder's learning rate, label smoothing
    "imagenet_frozen": (0.0, 0.2),
    "imagenet_finetuned": (5e-4, 0.5),
    "imagenet_finetuned_1e-4": (1e-4, 0.5),
}


@pytest.mark.parametrize("name", TABLE_9)
def test_a_recipe_has_the_settings_of_the_paper(name: str) -> None:
    config = load_config(FinetuneConfig, RECIPES / f"{name}.yaml")
    encoder_lr, smoothing = TABLE_9[name]
    optimizer, schedule = config.train.optimizer, config.train.schedule
    assert (optimizer.name, optimizer.lr, config.encoder_lr) == ("adafactor", 5e-4, encoder_lr)
    assert (optimizer.weight_decay, config.train.grad_clip) == (0.01, 1.0)
    assert config.train.ema is not None
    assert config.train.ema.decay == 0.9999
    assert (schedule.decay, schedule.warmup, schedule.final_lr_fraction) == ("cosine", 0, 0.0)
    assert (config.loss.class_smoothing, config.data.augment.rand_augment) == (smoothing, (2, 20))
    assert (config.train.steps, config.data.loader.batch_size) == (200_000, 512)
    loss = config.loss
    assert (loss.contrastive_weight, loss.captioning_weight, loss.classification_weight) == (
        *(0, 0),
        1,
    )
    augment = config.data.augment
    assert (augment.min_scale, augment.flip, augment.erase) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("name", TABLE_9)
def test_a_recipe_runs_as_it_is_but_smaller(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    image_folder, model = write_classes(tmp_path / "photos"), write_model(tmp_path / "model")
    config = load_config(
        FinetuneConfig,
        RECIPES / f"{name}.yaml",
        overrides=[
            f"run={tmp_path}/run",
            f"model={model}",
            f"data.sources.0.path={image_folder}",
            f"evaluate.0.data.path={image_folder}",
            "data.loader.batch_size=4",
            "data.loader.workers=0",
            "train.steps=2",
            "device=cpu",
        ],
    )
    (score,) = finetune(config).scores
    assert score.samples == 12
    assert 0 <= score.metrics["top1"] <= 1
    assert "the paper" in (tmp_path / "run" / "scores" / "report.md").read_text()
