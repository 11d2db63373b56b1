"""Evaluation while a run trains: what it writes, and that it changes nothing of the training."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import coca
from coca.core.config.frozen_config import load_config
from coca.core.errors import ConfigError, DataError
from coca.workflows.training.pretrain import pretrain
from coca.workflows.training.run_evaluation import EvalConfig, best_of, is_best_low
from tiny_ranks import on_ranks
from tiny_run import assert_same_checkpoint, newest, read_metrics
from tiny_workflows import recipe, stopping_at, watched_run

RANDOM = (
    "train.schedule.patch_dropout=0.5",
    "train.ema.decay=0.9",
    "data.augment.flip=0.5",
)


def watched(images: Path, *more: str) -> tuple[str, ...]:
    """Overrides for an evaluation of everything, every 4 steps."""
    return (
        "eval.every=4",
        f"eval.sources=[{{kind: folder, path: {images}}}]",
        "eval.samples=8",
        f"eval.tasks=[{{task: retrieval, data: {{kind: folder, path: {images}}}}}]",
        "eval.captions=3",
        *more,
    )


def assert_same_training(first: Path, second: Path) -> None:
    assert_same_checkpoint(first, second)
    ours, theirs = (newest(run).state["random"] for run in (first, second))
    for generator in ("torch", "numpy"):  # the tests' type checks draw from Python's
        assert ours[generator] == theirs[generator]
    assert losses(first) == losses(second)


def losses(run: Path) -> list[dict[str, Any]]:
    """The logged rows without scores, and without the figure that is measured by the clock."""
    return [
        {name: value for name, value in row.items() if "/" not in name and name != "pairs_per_s"}
        for row in read_metrics(run)
        if "loss" in row
    ]


def scores(run: Path) -> dict[int, dict[str, float]]:
    return {
        row["step"]: {name: value for name, value in row.items() if "/" in name}
        for row in read_metrics(run)
        if any("/" in name for name in row)
    }


def test_evaluation_changes_no_bit_of_the_training(images: Path, tmp_path: Path) -> None:
    pretrain(recipe(images, tmp_path / "alone", *RANDOM))
    pretrain(recipe(images, tmp_path / "watched", *RANDOM, *watched(images, "eval.every=3")))
    assert_same_training(tmp_path / "watched", tmp_path / "alone")
    assert list(scores(tmp_path / "watched")) == [3, 6, 9, 12]


def test_batch_norms_are_left_alone(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = (
        "model.image={kind: timm, name: test_efficientnet, image_size: 64, patch_size: 32}",
        "model.image.width=256",
        "train.steps=4",
    )
    pretrain(recipe(images, tmp_path / "alone", *encoder))
    pretrain(recipe(images, tmp_path / "watched", *encoder, *watched(images, "eval.every=2")))
    assert_same_training(tmp_path / "watched", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_evaluation_on_two_ranks_changes_no_bit_and_equals_that_on_one(
    images: Path, tmp_path: Path, kind: str
) -> None:
    changes = (*RANDOM[1:], f"train.parallel={kind}")
    for name, more in (("alone", ()), ("watched", watched(images))):
        run = partial(watched_run, images, tmp_path / name, *changes, *more)
        first, second = on_ranks(2, tmp_path, run)
        assert first["kept"] > 0
        assert second["kept"] == 0, "a rank without a task needs no whole model"
    assert_same_training(tmp_path / "watched", tmp_path / "alone")
    pretrain(recipe(images, tmp_path / "one", *RANDOM[1:], *watched(images)))
    ours, theirs = scores(tmp_path / "watched"), scores(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    for step, found in ours.items():
        assert found == pytest.approx(theirs[step], rel=1e-3, abs=1e-4)


def test_the_validation_loss_is_that_of_the_averages(images: Path, tmp_path: Path) -> None:
    """A run of length 0 from the finished model has the same weights, without averages."""
    run = tmp_path / "run"
    pretrain(recipe(images, run, *RANDOM, *watched(images)))
    still = (
        "train.steps=1",
        "train.schedule.warmup=0",
        "train.optimizer.lr=1e-30",
        f"init_from={run}",
    )
    pretrain(recipe(images, tmp_path / "still", f"init_from={run}", *still, *watched(images)))
    for name in ("val/loss", "retrieval/image_to_text_recall@1"):
        assert scores(tmp_path / "still")[1][name] == pytest.approx(scores(run)[12][name])


def test_the_best_and_the_last_weights_are_kept(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(recipe(images, run, *watched(images), "train.optimizer.lr=0.05"))
    best = best_of(run)
    assert best is not None
    by_step = {step: found["val/loss"] for step, found in scores(run).items()}
    assert best.score == "val/loss"
    assert by_step[best.step] == best.value == min(by_step.values())
    assert coca.load(run / "best").embed_texts(["a"]).shape == (1, 32)
    assert (coca.load(run / "best").fingerprint == coca.load(run).fingerprint) == (best.step == 12)


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_scores_and_the_best_of_one_that_was_not(
    images: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stages = "data.resolution=[{until: 0.5, image_size: 8}]"
    changes = (*RANDOM, *watched(images), stages, "train.schedule.decay=constant")
    pretrain(recipe(images, whole, *changes))
    for step in (4, 9):
        with stopping_at(step):
            stopped = pretrain(recipe(images, parts, *changes))
        assert (stopped.step, stopped.interrupted, stopped.terminated) == (step, True, False)
    pretrain(recipe(images, parts, *changes))
    assert_same_training(parts, whole)
    assert scores(parts) == scores(whole)
    assert best_of(parts) == best_of(whole)
    name = "best/model.safetensors"
    ours, theirs = load_file(parts / name), load_file(whole / name)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_sample_captions_are_written_with_their_images(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    pretrain(recipe(images, run, *watched(images), "train.trackers=[jsonl, tensorboard]"))
    folder = run / "samples" / "step_00000012"
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    predictor = coca.load(run)
    assert len(rows) == 3
    for row in rows:
        with Image.open(folder / row["image"]) as shown:
            assert shown.size == (20, 20)
        assert row["caption"] == predictor.caption([images / f"{row['key']}.png"])[0].text
        assert row["references"] == [(images / f"{row['key']}.txt").read_text()]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Images("captions/2")] == [4, 8, 12]
    assert [event.step for event in events.Scalars("val/loss")] == [4, 8, 12]


def test_an_evaluation_that_fails_is_reported_and_the_run_continues(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise DataError("the disk of the pictures has vanished", reason="missing")

    config = recipe(
        images, tmp_path / "run", *watched(images), "eval.sources=[]", "eval.captions=0"
    )
    monkeypatch.setattr("coca.tasks.image_text_retrieval.read_samples", fails)
    with caplog.at_level(logging.WARNING):
        assert pretrain(config).step == 12
    assert "retrieval is left out: the disk of the pictures has vanished" in caplog.text
    assert best_of(tmp_path / "run") is None


def test_a_task_that_cannot_run_is_reported_before_the_first_step(
    images: Path, tmp_path: Path
) -> None:
    config = recipe(images, tmp_path / "run", *watched(images), "eval.tasks.0.data.path=nowhere")
    with pytest.raises(DataError, match="nowhere"):
        pretrain(config)
    assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "eval has neither sources nor tasks"),
        ({"captions": 2, "tasks": 1}, "eval.captions is 2, but eval.sources has no images"),
        ({"sources": 1, "best": "retrieval/x"}, "it must begin with val/"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], problem: str) -> None:
    source = {"kind": "folder", "path": "pictures"}
    if "tasks" in settings:
        settings = {**settings, "tasks": [{"task": "retrieval", "data": source}]}
    if "sources" in settings:
        settings = {**settings, "sources": [source]}
    with pytest.raises(ConfigError, match=problem):
        load_config(EvalConfig, settings)


@pytest.mark.parametrize(
    ("score", "low"),
    [
        ("val/loss", True),
        ("val/captioning", True),
        ("val/image_to_text@1", False),
        ("retrieval/text_to_image_median_rank", True),
        ("zero_shot/top1", False),
    ],
)
def test_losses_and_ranks_are_best_when_low(score: str, low: bool) -> None:
    assert is_best_low(score) is low
