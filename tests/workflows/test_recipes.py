"""The paper's recipes: they have the settings of the paper, and each runs at a small size."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from coca.core.config.frozen_config import load_config
from coca.model.coca import CoCa
from coca.model.pretrained import count_parameters
from coca.predict.torch_loading import load_coca
from coca.workflows.training.pretrain import PretrainConfig
from tiny import transformer
from tiny_ranks import on_ranks
from tiny_recipes import RECIPES, both_stages_on_this_rank, run_recipe, write_shards
from tiny_run import read_metrics

MODELS = {"coca_base": 383e6, "coca_large": 787e6, "coca_2b": 2.1e9}


def config_of(name: str) -> PretrainConfig:
    return load_config(PretrainConfig, RECIPES / f"{name}.yaml")


@pytest.mark.parametrize("name", MODELS)
def test_the_first_stage_has_the_settings_of_the_paper(name: str) -> None:
    config = config_of(name)
    assert count_parameters(config.model)["total_without_poolers"] == pytest.approx(
        MODELS[name], rel=2e-3
    )
    image, text = config.model.image, config.model.text
    assert (image.image_size, image.patch_size, text.vocab_size) == (288, 18, 64_000)
    assert (config.model.pooler.kind, config.model.pooler.captioning_queries) == ("cascade", 256)
    assert config.model.initial_temperature == 0.07
    assert config.tokenizer.kind == "unigram"
    captions, labels = config.data.sources
    assert captions.weight == labels.weight
    assert (captions.text, captions.templates) == ("captions", ())
    assert (labels.text, labels.templates) == ("labels", ("clip",))
    assert config.data.loader.batch_size == 65_536
    loss, train = config.loss, config.train
    assert (loss.contrastive_weight, loss.captioning_weight) == (1.0, 2.0)
    assert (loss.contrastive, loss.contrastive_reduction) == ("softmax", "sum")
    optimizer, schedule = train.optimizer, train.schedule
    assert train.steps == 500_000
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adafactor", 8e-4, 0.01)
    assert (optimizer.betas[0], optimizer.beta2_cap) == (0.9, 0.999)
    assert (optimizer.clipping_threshold, optimizer.momentum_dtype) == (None, "bfloat16")
    assert (schedule.warmup, schedule.decay, schedule.final_lr_fraction) == (0.02, "linear", 0.0)
    assert schedule.patch_dropout == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_the_second_stage_differs_in_what_the_paper_changes_or_leaves_open(name: str) -> None:
    first, second = config_of(name), config_of(f"{name}_576")
    assert second.init_from == str(first.run)
    assert second.model.image.image_size == 576
    assert (second.model.text, second.model.pooler) == (first.model.text, first.model.pooler)
    assert second.loss == first.loss
    assert second.data == first.data
    assert second.train.optimizer.lr < first.train.optimizer.lr
    assert second.train.steps < first.train.steps
    assert second.train.schedule == first.train.schedule


def test_both_stages_run_as_they_are(tmp_path: Path) -> None:
    # The three models differ in sizes, which a test makes small.
    name = "coca_2b"
    write_shards(tmp_path)
    # The one setting besides sizes: this process is on its own.
    alone = "train.parallel=auto"
    first = run_recipe(name, tmp_path, alone)
    second = run_recipe(f"{name}_576", tmp_path, alone, f"init_from={first.run}")
    for result, side in ((first, 288), (second, 576)):
        losses = [row["loss"] for row in read_metrics(result.run)]
        assert len(losses) == result.step == 2
        assert all(math.isfinite(loss) for loss in losses)
        predictor = load_coca(result.model, device="cpu")
        assert predictor.processor.image_config.image_size == side
        assert isinstance(predictor.model, CoCa)
        assert len(transformer(predictor.model).positions) == (side // 18) ** 2
    # Both losses of a batch of four, before anything is learned: two times log 4 for matching,
    # and two times the logarithm of the vocabulary for words.
    words = load_coca(first.model, device="cpu").processor.tokenizer.vocab_size
    start = read_metrics(first.run)[0]["loss"]
    assert start == pytest.approx(2 * math.log(4) + 2 * math.log(words), rel=0.3)


@pytest.mark.distributed
def test_ranks_share_the_smallest_model_as_the_recipe_asks(tmp_path: Path) -> None:
    write_shards(tmp_path)
    first, second = on_ranks(2, tmp_path, partial(both_stages_on_this_rank, tmp_path))
    assert bool(first["losses"].isfinite().all())
    assert all(torch.equal(first[name], second[name]) for name in first)
