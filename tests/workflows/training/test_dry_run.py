"""Estimates of a run, compared with counts by hand and with a whole batch."""

from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.workflows.training import dry_run as module
from coca.workflows.training.dry_run import dry_run
from coca.workflows.training.pretrain import PretrainConfig
from tiny_workflows import recipe


def parameters(config: PretrainConfig) -> int:
    return sum(parameter.numel() for parameter in CoCa(config.model).parameters())


def test_a_dry_run_counts_the_run_and_writes_nothing(images: Path, tmp_path: Path) -> None:
    config = recipe(images, tmp_path / "run", "train.steps=30", "train.ema.decay=0.9")
    before = sorted(tmp_path.rglob("*"))
    estimate = dry_run(config)
    assert sorted(tmp_path.rglob("*")) == before
    assert estimate.samples == {str(images): 12}
    assert estimate.epochs == {str(images): 30 * 4 / 12}
    count = parameters(config)
    assert estimate.parameters == estimate.trained_parameters == count
    assert estimate.weights_bytes == estimate.gradients_bytes == 4 * count
    # Two moments and the average of each weight, and a counter of steps of each tensor.
    tensors = len(list(CoCa(config.model).parameters()))
    assert estimate.optimizer_bytes == 4 * (3 * count + tensors)
    assert estimate.hours == pytest.approx(estimate.step_s * 30 / 3600)


def test_frozen_weights_have_neither_gradients_nor_moments(images: Path, tmp_path: Path) -> None:
    config = recipe(images, tmp_path / "run", "train.optimizer.freeze=[image_encoder]")
    estimate = dry_run(config)
    frozen = sum(it.numel() for it in CoCa(config.model).image_encoder.parameters())
    assert estimate.gradients_bytes == 4 * (parameters(config) - frozen)
    whole = dry_run(recipe(images, tmp_path / "run"))
    assert estimate.activations_bytes < whole.activations_bytes


def test_activations_of_many_pairs_are_scaled_from_few(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(images, tmp_path / "run", "data.loader.batch_size=32")
    scaled = dry_run(config)
    monkeypatch.setattr(module, "FEW_PAIRS", 32)
    assert scaled.activations_bytes == pytest.approx(dry_run(config).activations_bytes, rel=0.02)


def test_micro_batches_keep_the_activations_of_one(images: Path, tmp_path: Path) -> None:
    batch = "data.loader.batch_size=32"
    small = dry_run(recipe(images, tmp_path / "run", batch, "train.micro_batch=8"))
    alone = dry_run(recipe(images, tmp_path / "run", "data.loader.batch_size=8"))
    assert small.activations_bytes == alone.activations_bytes


def test_recomputed_blocks_keep_their_inputs_only(images: Path, tmp_path: Path) -> None:
    kept = [
        dry_run(recipe(images, tmp_path / "run", f"train.recompute_every={every}"))
        for every in ("null", "2", "1")
    ]
    activations = [estimate.activations_bytes for estimate in kept]
    assert activations == sorted(activations, reverse=True)
    # Two blocks of text and one of the image, whose inputs are 32 numbers for each token.
    patches = kept[0].batch_size * (16 // 8) ** 2
    images_and_patches = kept[0].batch_size * 3 * 16 * 16 * 4 + patches * 32 * 4
    assert activations[0] > activations[1] > activations[2] > images_and_patches


def test_a_batch_that_does_not_fit_is_timed_with_few_pairs(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(images, tmp_path / "run", "data.loader.batch_size=4096")
    monkeypatch.setattr(module, "_available", lambda device: 10_000_000)
    assert dry_run(config).measured_pairs == module.FEW_PAIRS


def test_a_model_larger_than_memory_is_reported(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_available", lambda device: 1000)
    with pytest.raises(ConfigError, match="make the dry run on the machine of the run"):
        dry_run(recipe(images, tmp_path / "run"))


def test_what_the_figures_leave_out_is_named(images: Path, tmp_path: Path) -> None:
    resolution = "data.resolution=[{until: 0.5, image_size: 8}]"
    left = dry_run(recipe(images, tmp_path / "run", resolution)).left_out
    assert any("data.resolution" in part for part in left)
    assert any("vocab_size" in part for part in left)
