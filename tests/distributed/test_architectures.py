"""A detector and OpenCLIP's CoCa on two ranks: the step and the run of one process."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from coca.data.loading.loader import LoaderConfig
from coca.data.sources.annotated import AnnotationsConfig
from coca.inference.detecting import load_detector
from coca.model.detector import Boxes, DetectorConfig
from coca.train.distributed.parallel import Kind
from coca.train.optim.optimizer import OptimizerConfig
from coca.train.trainer import TrainConfig
from coca.workflows.training.finetune_detection import DetectionConfig, finetune_detection
from coca.workflows.training.pretrain_data import DataConfig
from tiny_architectures import sharded_steps_on_cuda, steps, steps_and_run
from tiny_datasets import write_scenes
from tiny_model import write_model
from tiny_ranks import Results, on_ranks

pytestmark = pytest.mark.distributed


class Made(NamedTuple):
    ranks: list[dict[str, Results]]
    config: DetectionConfig


def recipe(folder: Path) -> DetectionConfig:
    """A run of four steps with sharded weights."""
    path = write_scenes(folder / "scenes")
    scenes = AnnotationsConfig(
        kind="coco_instances", path=str(path), images=str(path.parent / "pictures")
    )
    return DetectionConfig(
        run=folder / "run",
        model=str(write_model(folder / "pretrained")),
        device="cpu",
        image_size=32,
        detector=DetectorConfig(channels=32, scales=(2.0, 1.0)),
        data=DataConfig(sources=(scenes,), loader=LoaderConfig(batch_size=4)),
        train=TrainConfig(
            steps=4, optimizer=OptimizerConfig(lr=1e-3), parallel="fsdp", trackers=("jsonl",)
        ),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ranks")
    config = recipe(folder)
    return Made(on_ranks(2, folder, partial(steps_and_run, config)), config)


@pytest.fixture(scope="module")
def alone() -> Results:
    return steps("none")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("model", ["boxes", "openclip"])
def test_ranks_give_the_losses_and_gradients_of_one_process(
    made: Made, alone: Results, kind: Kind, model: str
) -> None:
    for rank in made.ranks:
        # fp32 has seven digits, and sums come in another order.
        assert_same_step(rank[kind], alone, model, tolerance=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
def test_sharded_weights_on_an_accelerator_give_the_gradients_of_the_cpu(
    alone: Results, tmp_path: Path
) -> None:
    (found,) = on_ranks(1, tmp_path, sharded_steps_on_cuda, backend="cpu:gloo,cuda:nccl")
    for model in ("boxes", "openclip"):
        assert_same_step(found, alone, model, tolerance=1e-5)


def assert_same_step(found: Results, alone: Results, model: str, *, tolerance: float) -> None:
    """Figures differ by this share of themselves, gradients by this share of the whole gradient.

    Some gradients are rounding alone, as of a bias before a norm.
    """
    wanted = {name: value for name, value in alone.items() if name.startswith(f"{model}/")}
    gradients = [value.flatten() for name, value in wanted.items() if "/gradient/" in name]
    length = float(torch.cat(gradients).norm())
    assert wanted.keys() == {name for name in found if name.startswith(f"{model}/")}
    for name, value in wanted.items():
        size = length if "/gradient/" in name else float(value.abs())
        assert float((found[name] - value).norm()) <= tolerance * size, name


def test_each_decoder_layer_of_openclip_is_gathered_by_itself(made: Made) -> None:
    assert all(bool(rank["fsdp"]["apart"].all()) for rank in made.ranks)


def test_a_sharded_run_of_detection_ends_with_the_detector_of_one_process(
    made: Made, tmp_path: Path
) -> None:
    config = replace(made.config, run=tmp_path)
    config = replace(config, train=replace(config.train, parallel="none"))
    alone = finetune_detection(config).model
    ours, theirs = (
        load_detector(folder, device="cpu") for folder in (made.config.run / "model", alone)
    )
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    box: Boxes = {"boxes": torch.tensor([[4.0, 8.0, 14.0, 20.0]]), "labels": torch.tensor([0])}
    with torch.no_grad():
        found, wanted = (it.detector.train()([image], [box]) for it in (ours, theirs))
    for name, loss in wanted.items():
        # Adam divides each gradient by its own size: a last digit may turn a small one over.
        torch.testing.assert_close(found[name], loss, rtol=1e-4, atol=0)
    others = ours.predictor.model.unimodal_decoder.state_dict()  # type: ignore[attr-defined]
    for name, weight in theirs.predictor.model.unimodal_decoder.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(others[name], weight)
