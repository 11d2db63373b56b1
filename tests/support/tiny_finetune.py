"""A whole fine-tuning run small enough for a test: coloured squares in class folders."""

from pathlib import Path
from typing import Any

from coca.core.config.frozen_config import load_config
from coca.workflows.training.finetune import FinetuneConfig
from tiny_pretrain import write_squares

COLORS = ("red", "green", "blue", "yellow")

RECIPE: dict[str, Any] = {
    "head": {"heads": 2},
    "encoder_lr": 0.001,
    "data": {
        "sources": [{"kind": "folder", "text": "labels"}],
        "loader": {"batch_size": 4},
    },
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
        color = folder / COLORS[number % 4]
        color.mkdir(parents=True, exist_ok=True)
        (squares / f"{number}.png").rename(color / f"{number}.png")
    return folder


def recipe(model: Path, image_folder: Path, run: Path, *overrides: str) -> FinetuneConfig:
    return load_config(
        FinetuneConfig,
        RECIPE,
        overrides=[
            f"run={run}",
            f"model={model}",
            f"data.sources.0.path={image_folder}",
            f"evaluate.0.data.path={image_folder}",
            *overrides,
        ],
    )
