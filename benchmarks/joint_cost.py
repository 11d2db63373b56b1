"""Cost of a training step with both losses against one loss, in turn.

    python benchmarks/joint_cost.py --rounds 20
    python benchmarks/joint_cost.py --model coca_base --batch 8 --precision bf16 --rounds 5

The recipes flickr8k_coca, flickr8k_contrastive and flickr8k_captioning run unchanged, on the first
batch of their loader, in one process. With `--model` a model of the paper's sizes runs instead, on
noise with captions of 12 tokens on average. A round is one step of each; the ratios are within
rounds, since the speed of a shared machine drifts. The measure is the processor time of this
process, which other work on the machine changes little. The paper reports 1.18 times the
contrastive step for its large model (section 4.3), in which the text side is a smaller part of the
whole.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from big_batch import make_batch
from options import run
from rank_plan import flop_counter
from sample_data import HELP, TRAIN, located
from side_by_side import Rounds, figure, ratio, table, write_report

from coca.core.config.frozen_config import load_config
from coca.core.malloc import keep_freed_memory
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.pretrained import resolve_precision
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer
from coca.workflows.training.pretrain import PretrainConfig
from coca.workflows.training.pretrain_data import (
    make_loader,
    make_processor,
    open_sources,
    train_tokenizer,
)

RECIPES = Path(__file__).parents[1] / "recipes" / "pretrain"
KINDS = ("contrastive", "captioning", "coca")


QUICK = {"rounds": 2, "batch": 32}
UNITS = {"seconds": "processor s", "flops": "FLOPs"}


def referee(arguments: argparse.Namespace) -> Rounds:
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    steps = _preset_steps(arguments) if arguments.model else _recipe_steps(arguments)
    flops = {}
    for kind, step in steps.items():
        with flop_counter() as counter:
            step()
        flops[kind] = counter.get_total_flops()
        step()  # the second step reuses memory and optimizer state
    rounds = Rounds({kind: [] for kind in KINDS})
    for turn in range(arguments.rounds):
        for kind in KINDS if turn % 2 == 0 else reversed(KINDS):
            begun = time.process_time()
            steps[kind]()
            seconds = time.process_time() - begun
            rounds[kind].append({"seconds": seconds, "flops": flops[kind]})
    rows = [
        [
            f"{arguments.model or 'flickr8k'}_{kind}",
            figure(rounds[kind], "seconds").shown(3),
            ratio(rounds[kind], rounds["contrastive"], "seconds").shown(),
            f"{flops[kind] / flops['contrastive']:.2f}",
        ]
        for kind in KINDS
    ]
    write_report(
        arguments,
        rounds,
        "_".join(filter(None, ("joint_cost", arguments.model))),
        "A step of both losses against a step of one",
        table(
            ["recipe", "processor seconds a step", "times contrastive only", "FLOPs, times"], rows
        ),
        f"Medians of {arguments.rounds} rounds of one step each, with the lowest and the highest; "
        f"{arguments.threads} thread, batch {arguments.batch}.",
        packages=("torch",),
    )
    return rounds


def _preset_steps(arguments: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Build one update function per loss, all of the same model on the same batch."""
    losses = {
        "contrastive": LossConfig(captioning_weight=0),
        "captioning": LossConfig(contrastive_weight=0),
        "coca": LossConfig(),
    }
    config = CoCaConfig.presets()[arguments.model]
    torch.manual_seed(0)
    model, batch = CoCa(config), make_batch(config, arguments.batch)
    optimizer = make_optimizer(model, OptimizerConfig(lr=1e-5))
    bf16 = arguments.precision == "bf16"
    return {kind: _step(model, batch, loss, optimizer, bf16) for kind, loss in losses.items()}


def _recipe_steps(arguments: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Build one update function per recipe, all on the same batch."""
    changes = [
        f"data.sources=[{{kind: shards, path: '{located(arguments.data)}'}}]",
        f"data.loader.batch_size={arguments.batch}",
    ]
    configs = {
        kind: load_config(PretrainConfig, RECIPES / f"flickr8k_{kind}.yaml", overrides=changes)
        for kind in KINDS
    }
    config = configs["coca"]
    sources = open_sources(config.data.sources)
    tokenizer = train_tokenizer(
        sources, vocab_size=config.model.text.vocab_size, config=config.tokenizer
    )
    processor = make_processor(
        config.data,
        tokenizer,
        image_size=config.model.image.image_size,
        context_length=config.model.text.context_length,
    )
    loader = make_loader(
        config.data, sources, processor, steps=1, seed=0, bad_log=Path("bad_samples.jsonl")
    )
    batch = next(iter(loader)).to("cpu")
    steps = {}
    for kind, recipe in configs.items():
        torch.manual_seed(recipe.seed)
        model = CoCa(recipe.model)
        optimizer = make_optimizer(model, recipe.train.optimizer)
        bf16 = resolve_precision(recipe.train.precision, torch.device("cpu")) == "bf16"
        steps[kind] = _step(model, batch, recipe.loss, optimizer, bf16)
    return steps


def _step(
    model: CoCa, batch: Batch, loss: LossConfig, optimizer: torch.optim.Optimizer, bf16: bool
) -> Callable[[], None]:
    objective = CoCaObjective(loss)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            losses = objective(model, batch)
        losses.total.backward()
        optimizer.step()
        objective.constrain_(model)

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--batch", type=int, default=128, help="pairs (default 128)")
    parser.add_argument("--data", default=TRAIN, help=HELP)
    presets = list(CoCaConfig.presets())
    parser.add_argument("--model", choices=presets, help="default: those of the recipes")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of --model")
    run(parser, referee=referee, quick=QUICK, units=UNITS, rounds=20)
