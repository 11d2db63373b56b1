"""The paper's recipes for downstream tasks: they have its settings, and run unchanged but smaller.

Others of the folder run as well: those of public data that the paper does not use.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import coca
from coca.core.config.frozen_config import load_config
from coca.data.sources.source import SplitConfig
from coca.data.sources.zip_archive import ZipConfig
from coca.workflows.evaluation.evaluation_report import benchmark_named
from coca.workflows.training.finetune import FinetuneConfig, finetune
from tiny_data import image_bytes
from tiny_datasets import write_nlvr2, write_questions, write_snli_ve, write_vqa
from tiny_model import write_model
from tiny_video import video
from tiny_workflows import write_classes

RECIPES = Path(__file__).parents[2] / "recipes" / "finetune"


class Row(NamedTuple):
    """A column of the paper's Table 9 or 10."""

    steps: int
    batch: int
    lr: float
    encoder_lr: float | None
    weight_decay: float
    warmup: int
    ema: float | None
    smoothing: float | None = None
    augment: tuple[int, int] | None = None
    losses: tuple[bool, bool, bool] = (False, False, True)
    """Whether the contrastive, captioning and classification losses have a weight."""


CAPTIONS: Any = {"losses": (False, True, False)}
TABLES = {
    "imagenet_frozen": Row(200_000, 512, 5e-4, 0.0, 0.01, 0, 0.9999, 0.2, (2, 20)),
    "imagenet_finetuned": Row(200_000, 512, 5e-4, 5e-4, 0.01, 0, 0.9999, 0.5, (2, 20)),
    "imagenet_finetuned_1e-4": Row(200_000, 512, 5e-4, 1e-4, 0.01, 0, 0.9999, 0.5, (2, 20)),
    "kinetics400_frozen": Row(120_000, 128, 5e-4, 0.0, 0.0, 1000, 0.9999, 0.1),
    "kinetics400_finetuned": Row(120_000, 128, 5e-4, 5e-4, 0.0, 1000, 0.9999, 0.1),
    "moments_frozen": Row(120_000, 128, 5e-4, 0.0, 0.0, 1000, 0.9999, 0.0),
    "moments_finetuned": Row(120_000, 128, 5e-4, 5e-4, 0.0, 1000, 0.9999, 0.0),
    "vqa_v2": Row(
        *(100_000, 64, 5e-4, 2e-5, 0.1, 1000, None), augment=(1, 10), losses=(False, True, True)
    ),
    "snli_ve": Row(50_000, 128, 1e-3, 5e-5, 0.1, 1000, None, augment=(1, 10)),
    "nlvr2": Row(50_000, 64, 5e-4, 2e-5, 0.1, 1000, None),
    "coco_captions": Row(50_000, 128, 1e-5, None, 0.1, 1000, None, **CAPTIONS),
    "nocaps": Row(10_000, 128, 1e-5, None, 0.1, 1000, None, **CAPTIONS),
}


def config_of(name: str, **changes: Any) -> FinetuneConfig:
    return load_config(FinetuneConfig, RECIPES / f"{name}.yaml", changes)


@pytest.mark.parametrize("name", TABLES)
def test_a_recipe_has_the_settings_of_the_paper(name: str) -> None:
    config = config_of(name)
    train, loss = config.train, config.loss
    optimizer, schedule = train.optimizer, train.schedule
    assert TABLES[name] == Row(
        train.steps,
        config.data.loader.batch_size,
        optimizer.lr,
        config.encoder_lr,
        optimizer.weight_decay,
        int(schedule.warmup),
        None if train.ema is None else train.ema.decay,
        loss.class_smoothing,
        config.data.augment.rand_augment,
        (
            loss.contrastive_weight > 0,
            loss.captioning_weight > 0,
            loss.classification_weight == 1,
        ),
    )
    assert (optimizer.name, train.grad_clip) == ("adafactor", 1.0)
    assert (schedule.decay, schedule.final_lr_fraction) == ("cosine", 0.0)


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("imagenet")])
def test_augmentation_of_imagenet_is_rand_augment_alone(name: str) -> None:
    augment = config_of(name).data.augment
    assert (augment.min_scale, augment.flip, augment.erase) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith(("kin", "mom"))])
def test_a_head_of_videos_reads_all_frames_of_a_clip(name: str) -> None:
    config = config_of(name)
    assert config.head is not None
    frames = (config.data.sources[0].frames, config.evaluate[0].data.frames)
    assert (config.head.reads, frames) == ("image", (config.head.images_per_sample,) * 2)


@pytest.mark.parametrize(
    ("name", "images", "most_frequent"), [("vqa_v2", 1, 3129), ("snli_ve", 1, 0), ("nlvr2", 2, 0)]
)
def test_a_head_of_table_10_reads_text(name: str, images: int, most_frequent: int) -> None:
    head = config_of(name).head
    assert head is not None
    found = (head.reads, head.images_per_sample, head.most_frequent)
    assert found == ("text", images, most_frequent)


@pytest.mark.parametrize("name", ["coco_captions", "nocaps"])
def test_captions_are_learned_from_what_papers_call_coco_train(name: str) -> None:
    # Two parts of the file.
    (source,) = config_of(name).data.sources
    assert isinstance(source, SplitConfig)
    assert source.splits == ("train", "restval")


def test_the_joint_mode_differs_from_captioning_alone_in_its_losses_only() -> None:
    alone, joint = config_of("flickr8k_captioning"), config_of("flickr8k_joint")
    assert alone.loss.contrastive_weight == 0 < joint.loss.contrastive_weight
    assert alone.loss.captioning_weight == joint.loss.captioning_weight
    for part in ("model", "data", "train", "evaluate", "weights", "seed"):
        assert getattr(alone, part) == getattr(joint, part)
    assert [task.task for task in joint.evaluate] == ["retrieval", "captioning"]


Data = Mapping[str, Any]
"""Settings of a source that replace those of the recipe, for training and for the score."""


def write_karpathy(root: Path) -> Data:
    root.mkdir()
    images = []
    for row, split in enumerate(("train", "train", "restval", "test", "test")):
        (root / f"{row}.jpg").write_bytes(image_bytes(row))
        sentences = [{"raw": f"a red car {row}"}, {"raw": f"two dogs play {row}"}]
        images.append({"filename": f"{row}.jpg", "split": split, "sentences": sentences})
    path = root / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}))
    return {"path": str(path), "images": ""}


COLOURS = {"red+light": (220, 20, 20), "blue+light": (20, 20, 220)}


def write_clips(root: Path, *, header: bool) -> Data:
    """Four clips of two colours, as Kinetics (with a header) or Moments list them."""
    (root / "videos").mkdir(parents=True)
    lines = ["label,youtube_id,time_start,time_end,split"] if header else []
    for number in range(4):
        label = list(COLOURS)[number % 2]
        name = f"id{number}_000001_000003" if header else f"id{number}"
        content = video(frames=10, colour=COLOURS[label])
        (root / "videos" / f"{name}.mp4").write_bytes(content)
        lines.append(f"{label},id{number},1,3,train" if header else f"{name}.mp4,{label},3,0")
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return {"path": str(root / "clips.csv"), "images": str(root / "videos")}


def write_kinetics(root: Path) -> Data:
    return write_clips(root, header=True)


def write_moments(root: Path) -> Data:
    return write_clips(root, header=False)


def write_photos(root: Path) -> Data:
    return {"path": str(write_classes(root))}


def write_zip(path: Path, rows: list[dict[str, Any]]) -> ZipConfig:
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for number, row in enumerate(rows):
            file.writestr(row["image"], image_bytes(number))
        file.writestr("meta.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return ZipConfig(path=str(path))


def write_indoor_photos(root: Path) -> ZipConfig:
    rows = [
        {
            "image": f"{number}.png",
            "question": f"what is {number % 3}",
            "answer": ("bed, garbage_bin", "chair")[number % 2],
        }
        for number in range(10)
    ]
    return write_zip(root / "rooms.zip", rows)


HEADS = {"image": 2, "text": 3}
"""Numbers of heads that divide the widths of the tiny model."""

METRICS = {
    "recognition": ("top1", "chance_top1"),
    "captioning": ("cider",),
    "retrieval": ("text_to_image_recall@1",),
}
"""Metrics of a task; the others have an accuracy."""

WRITERS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys(["imagenet_frozen", "imagenet_finetuned"], write_photos),
    "kinetics400_finetuned": write_kinetics,
    "moments_frozen": write_moments,
    "coco_captions": write_karpathy,
    "flickr8k_joint": write_karpathy,
    "vqa_v2": write_vqa,
    "snli_ve": write_snli_ve,
    "nlvr2": write_nlvr2,
    "easy_vqa": write_questions,
    "daquar": write_indoor_photos,
}
"""Writes tiny data in the published format of a recipe's sources: one recipe of each kind."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_recipe_runs_as_it_is_but_smaller(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    data, recipe = WRITERS[name](tmp_path / "data"), config_of(name)
    optimizer = recipe.train.optimizer
    given: Data = data if isinstance(data, dict) else vars(data)
    there = {key: given[key] for key in ("path", "images") if key in given}
    karpathy = {"kind": "karpathy"} if name == "flickr8k_joint" else {}
    if karpathy:
        sources: Any = [karpathy | there | {"split": ["train", "restval"]}]
    else:
        sources = {"0": there}
    tasks = {
        str(number): {
            "data": there | (karpathy and karpathy | {"split": "test"}),
            **({"reference": there} if task.reference else {}),
        }
        for number, task in enumerate(recipe.evaluate)
    }
    smaller = {
        "run": str(tmp_path / "run"),
        "model": str(write_model(tmp_path / "model", context=16)),
        "image_size": None,
        "data": {
            "sources": sources,
            "loader": {"batch_size": 4, "workers": 0},
            **({"features": {"folder": str(tmp_path)}} if recipe.data.features else {}),
        },
        "train": {
            "steps": 2,
            "precision": "fp32",
            "schedule": {"warmup": 0},
            # The tiny encoder has no backbone.
            **({"optimizer": {"freeze": ["image_encoder"]}} if optimizer.freeze else {}),
        },
        "evaluate": tasks,
        "device": "cpu",
        **({} if recipe.head is None else {"head": {"heads": HEADS[recipe.head.reads]}}),
    }
    result = finetune(config_of(name, **smaller))
    assert (result.step, result.interrupted) == (2, False)
    assert [score.task for score in result.scores] == [task.task for task in recipe.evaluate]
    for score in result.scores:
        assert score.samples > 0
        assert score.bad == ()
        names = METRICS.get(score.task, ("accuracy", "majority_accuracy"))
        assert all(0 <= score.metrics[name] <= (10 if name == "cider" else 1) for name in names)
    assert ("contrastive" in result.metrics) == (recipe.loss.contrastive_weight > 0)
    report = (tmp_path / "run" / "scores" / "report.md").read_text()
    if name in TABLES:
        assert benchmark_named(recipe.evaluate[-1].benchmark or name).title in report
    if recipe.head is not None and recipe.head.reads == "text":
        predictor = coca.load(result.model, device="cpu")
        images = [image_bytes(1)] * recipe.head.images_per_sample
        (best,) = predictor.answer([images], ["what is it?"])
        assert best[0].label in predictor.classes
