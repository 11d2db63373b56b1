"""A recipe of the paper, shrunk by overrides alone, over shards small enough for a test."""

from pathlib import Path

import torch

from coca.core.config.frozen_config import load_config
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.predict.torch_loading import load_coca
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from coca.workflows.training.training_run import RunResult
from tiny_data import image_bytes
from tiny_ranks import Results

RECIPES = Path(__file__).parents[2] / "recipes" / "pretrain"

SHRUNK = (
    "threads=1",
    "device=cpu",
    "model.image.width=16",
    "model.image.layers=1",
    "model.image.heads=2",
    "model.image.mlp_width=16",
    "model.text.width=16",
    "model.text.heads=2",
    "model.text.mlp_width=16",
    "model.text.unimodal_layers=1",
    "model.text.multimodal_layers=1",
    "model.pooler.heads=2",
    "model.embed_dim=16",
    "data.loader.batch_size=4",
    "data.loader.workers=0",
    "train.steps=2",
    "train.log_every=1",
    "train.micro_batch=1",
)

COLORS, THINGS, PLACES = ("red", "green", "old"), ("car", "dog", "house"), ("sea", "town", "wood")


def write_shards(root: Path) -> None:
    """Two sets of shards, as the recipes ask for: one with alt-text, one with labels."""
    texts = [
        f"a {color} {thing} by the {place}"
        for color in COLORS
        for thing in THINGS
        for place in PLACES
    ]
    for name in ("alt_text", "labels"):
        with ShardWriter(root / name, samples_per_shard=20) as writer:
            for number, text in enumerate(texts):
                words = (
                    {"captions": (text,)}
                    if name == "alt_text"
                    else {"labels": tuple(text.split()[1:3])}
                )
                writer.write(Sample(f"{name}-{number:03d}", image_bytes(number), **words))


def run_recipe(name: str, root: Path, *changes: str) -> RunResult:
    """Two steps of a recipe; the run is `root/NAME`, the shards are in `root`."""
    own = (
        f"run={root / name}",
        f"data.sources.0.path={root}/alt_text/*.tar",
        f"data.sources.1.path={root}/labels/*.tar",
    )
    config = load_config(
        PretrainConfig, RECIPES / f"{name}.yaml", overrides=[*SHRUNK, *own, *changes]
    )
    return pretrain(config)


def both_stages_on_this_rank(root: Path) -> Results:
    """Both stages of the smallest model, in `root`, where the shards are."""
    first = run_recipe("coca_base", root)
    second = run_recipe("coca_base_576", root, f"init_from={first.run}")
    return {
        "losses": torch.tensor([first.metrics["loss"], second.metrics["loss"]]),
        **load_coca(second.model, device="cpu").model.state_dict(),
    }
