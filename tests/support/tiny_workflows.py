"""Whole runs of pretraining and fine-tuning small enough for a test: coloured squares."""

import io
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from coca.core.config.frozen_config import load_config
from coca.core.progress import show_progress
from coca.data.sources.tar import index as tar_index
from coca.data.sources.tar.scan import TarScan, scan_tar
from coca.data.sources.tar.shards import ShardsConfig
from coca.predict.torch_loading import load_coca
from coca.train.trainer import Trainer
from coca.workflows.training.finetune import FinetuneConfig
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from coca.workflows.training.pretrain_data import open_sources
from tiny_ranks import Results

NAMES = ("red square", "green square", "blue square", "yellow square")
COLORS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30))

RECIPE: dict[str, Any] = {
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


def write_squares(folder: Path) -> Path:
    """Squares in a few colours, each with its caption next to it."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, (name, color) in enumerate(zip(NAMES * 3, COLORS * 3, strict=True)):
        pixels = np.full((20, 20, 3), color) + generator.integers(-20, 20, (20, 20, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
        (folder / f"{number}.txt").write_text(name)
    return folder


def recipe(image_folder: Path, run: Path, *overrides: str) -> PretrainConfig:
    return load_config(
        PretrainConfig,
        RECIPE,
        overrides=[f"run={run}", f"data.sources.0.path={image_folder}", *overrides],
    )


class _StoppingBar:
    """Sends this process Ctrl-C at one step of a training."""

    def __init__(self, left: int) -> None:
        self.left = left

    def advance(self, count: int = 1, **figures: float | str) -> None:
        self.left -= count
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def stopping_at(step: int) -> AbstractContextManager[None]:
    """A block in which a run stops behind this step, wherever it begins."""

    @contextmanager
    def make(title: str, total: int | None) -> Iterator[_StoppingBar]:
        done = int(title.rpartition(" ")[2]) if "from step" in title else 0
        yield _StoppingBar(step - done if title.startswith("training") else -1)

    return show_progress(make)


def run_on_this_rank(root: Path) -> Results:
    """A run in `root`, where the images are; gives the weights that anyone can load."""
    result = pretrain(recipe(root / "pictures", root / "run", "train.ema.decay=0.5"))
    model = load_coca(result.model, device="cpu").model
    return {"step": torch.tensor(result.step), **model.state_dict()}


def watched_run(image_folder: Path, run: Path, *overrides: str) -> Results:
    """A run on each of several ranks."""
    # Here, since a fork server that runs already has the environment of before.
    os.environ["WANDB_MODE"] = "offline"
    kept, gather = [0], Trainer.weights

    def weights(trainer: Trainer[Any], *, keep: bool = True) -> dict[str, Tensor]:
        found = gather(trainer, keep=keep)
        kept.append(len(found))
        return found

    setattr(Trainer, "weights", weights)  # noqa: B010
    step = pretrain(recipe(image_folder, run, *overrides)).step
    return {"step": torch.tensor(step), "kept": torch.tensor(max(kept))}


def tars_scanned_by_this_rank(folder: Path) -> int:
    """Number of tars without an index that this rank scans when all ranks open them."""
    scanned: list[str] = []

    def watch(stream: io.BufferedIOBase, path: str, **options: bool) -> TarScan:
        scanned.append(path)
        return scan_tar(stream, path, **options)

    setattr(tar_index, "scan_tar", watch)  # noqa: B010
    ((_, source),) = open_sources([ShardsConfig(path=str(folder))])
    assert len(source)
    return len(scanned)


CLASSES = ("red", "green", "blue", "yellow")

FINETUNE_RECIPE: dict[str, Any] = {
    "head": {"heads": 2},
    "encoder_lr": 0.001,
    "data": {"sources": [{"kind": "folder", "text": "labels"}], "loader": {"batch_size": 4}},
    "loss": {"contrastive_weight": 0, "captioning_weight": 0, "classification_weight": 1},
    "train": {
        "steps": 12,
        "log_every": 4,
        "save_every": 5,
        "optimizer": {"lr": 0.01},
        "schedule": {"warmup": 0, "decay": "cosine"},
    },
    "evaluate": [{"task": "recognition", "data": {"kind": "folder", "text": "labels"}}],
}


def write_classes(folder: Path) -> Path:
    """The squares in a folder for each colour, without captions."""
    squares = write_squares(folder.with_name(f"{folder.name}-squares"))
    for number in range(12):
        color = folder / CLASSES[number % 4]
        color.mkdir(parents=True, exist_ok=True)
        (squares / f"{number}.png").rename(color / f"{number}.png")
    return folder


def finetune_recipe(model: Path, image_folder: Path, run: Path, *overrides: str) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        FINETUNE_RECIPE,
        overrides=[
            f"run={run}",
            f"model={model}",
            f"data.sources.0.path={image_folder}",
            f"evaluate.0.data.path={image_folder}",
            *overrides,
        ],
    )
