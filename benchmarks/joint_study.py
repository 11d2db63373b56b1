"""Both losses against each alone, on a frozen encoder with ImageNet weights (the paper's claim).

    python benchmarks/joint_study.py

A model is trained with the contrastive loss, the captioning loss or both, on the photos of Flickr8k
for training, and scored on those for validation. All three have the same number of steps, the same
batches and the same initial weights for each seed.
"""

import argparse
from pathlib import Path

import torch
from frozen_photos import Study, add_options, load_photos, passed_on, score, sized, train_tokenizer
from options import run
from side_by_side import Rounds, emit, figure, in_turn, table, write_report

from coca.core.malloc import keep_freed_memory
from coca.train.objective import LossConfig

LOSSES = {
    "both": LossConfig(contrastive_weight=1, captioning_weight=2),
    "contrastive": LossConfig(contrastive_weight=1, captioning_weight=0),
    "captioning": LossConfig(contrastive_weight=0, captioning_weight=2),
}
SCORES = {
    "text to image R@10": ("both", "contrastive"),
    "image to text R@10": ("both", "contrastive"),
    "captioning loss": ("both", "captioning"),
    "CIDEr": ("both", "captioning"),
}

QUICK = {
    "scored": 200,
    "steps": 10,
    "width": 64,
    "layers": 1,
    "rounds": 1,
}
UNITS = {"* R@10": "fraction", "captioning loss": "nats per token", "CIDEr": "CIDEr"}


def contestant(arguments: argparse.Namespace) -> None:
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.folder)
    train, val = (load_photos(it, folder) for it in (arguments.train, arguments.val))
    tokenizer = train_tokenizer(train, arguments.vocab)
    name, _, seed = arguments.contestant.partition("-")
    study = Study(
        sized(arguments.width, arguments.layers, tokenizer.vocab_size),
        train,
        tokenizer,
        loss=LOSSES[name],
        lr=arguments.lr,
        batch_size=arguments.batch,
        seed=int(seed),
    )
    study.run_to(arguments.steps)
    emit(score(study.branch(), val.first(arguments.scored), captions=name != "contrastive"))


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = passed_on(arguments, "width", "layers", "steps", "lr")
    measured = Rounds({name: [] for name in LOSSES})
    for seed in range(arguments.rounds):
        found = in_turn(
            {name: [*shared, f"--contestant={name}-{seed}"] for name in LOSSES}, rounds=1
        )
        for name, runs in found.items():
            measured[name] += runs
    rows = [
        [title, *(figure(measured[name], title).shown(3) for name in pair)]
        for title, pair in SCORES.items()
    ]
    write_report(
        arguments,
        measured,
        "joint-study",
        "Both losses against one, on a frozen encoder",
        table(
            [f"score on {arguments.scored:,} photos", "both losses", "the loss of the score alone"],
            rows,
        ),
        f"Median, minimum and maximum of {arguments.rounds} seeds. {arguments.steps} steps of "
        f"{arguments.batch} pairs at a constant rate, then a quarter more to decay it; decoders of "
        f"{arguments.layers} + {arguments.layers} layers of {arguments.width}.",
        packages=["torch"],
    )
    return measured


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(options)
    options.add_argument("--width", type=int, default=256, help="width of the decoders (256)")
    options.add_argument("--layers", type=int, default=3, help="layers of each decoder (3)")
    options.add_argument("--steps", type=int, default=300, help="steps before the decay (300)")
    options.add_argument("--lr", type=float, default=1e-3, help="learning rate (1e-3)")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
