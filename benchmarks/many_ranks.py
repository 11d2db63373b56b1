"""Memory, traffic and time of CoCa's recipes on many GPUs, predicted, and checked on CPU ranks.

    python benchmarks/many_ranks.py
    python benchmarks/many_ranks.py --quick --models coca_large --gpus 16 32 --checks

The formulas of the prediction are in `rank_plan.py`. Peak and bandwidth are public figures of an
H100 node, and the utilization is an assumption; all are options. The check starts 2 and 4 processes
with gloo and compares bytes on the loopback interface, FLOPs and memory with the same formulas.
Neither depends on the speed of the machine. `unused` and `restart` measure what
`find_unused_parameters` of DDP costs, and what it is for.
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from gloo_ranks import isolated, on_ranks, sent_by
from options import run
from rank_plan import (
    FP32,
    KINDS,
    Hardware,
    Kind,
    Plan,
    count,
    flop_counter,
    kept_tensors,
    loss_bytes,
)
from side_by_side import (
    Figures,
    Rounds,
    emit,
    figure,
    forget_peak,
    in_turn,
    peak_bytes,
    table,
    write_report,
)
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from coca.core.config.frozen_config import load_config
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.encoders.vit import ViTConfig
from coca.model.losses.contrastive_loss import contrastive_loss
from coca.train.backward import backward
from coca.train.distributed import parallel as parallel_module
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.optimizer import make_optimizer
from coca.workflows.training.pretrain import PretrainConfig

RECIPES = Path(__file__).parents[1] / "recipes" / "pretrain"
MODELS = ("coca_base", "coca_large", "coca_2b")


@cache
def recipe(model: str) -> PretrainConfig:
    return load_config(PretrainConfig, RECIPES / f"{model}.yaml")


# Processes that measure what the formulas predict.

CHECKED, CHECK_PAIRS, CHECK_MICRO = CoCaConfig.presets()["coca_mini"], 6, 2
"""Model, pairs of a rank and of a micro-batch."""
STEPS = {
    f"{kind} {ranks}{' micro' if micro else ''}": Plan(
        CHECKED, kind, ranks, CHECK_PAIRS, micro, half=False
    )
    for kind in KINDS
    for ranks in (2, 4)
    for micro in (None, CHECK_MICRO)
}
LOSSES = {
    f"loss {ranks} {pairs}": Plan(
        replace(CHECKED, embed_dim=512), "ddp", ranks, pairs, None, half=False
    )
    for ranks in (2, 4)
    for pairs in (2048, 8192)
}


def full_batch(config: CoCaConfig, pairs: int) -> Batch:
    """Generate noise, and captions that fill the context."""
    text, side = config.text, config.image.image_size
    tokens = torch.randint(4, text.vocab_size, (pairs, text.context_length))
    tokens[:, 0], tokens[:, -2], tokens[:, -1] = text.bos_id, text.eos_id, text.cls_id
    keys = tuple(map(str, range(pairs)))
    return Batch(torch.randn(pairs, 3, side, side), tokens, keys, start=0)


def wrapped(config: CoCaConfig, kind: Kind) -> ParallelModel[CoCa]:
    torch.manual_seed(0)
    return ParallelModel(CoCa(config), kind, device=torch.device("cpu"))


def measured_step(plan: Plan) -> Figures:
    """Measure a step as `Plan` predicts it: bytes sent, FLOPs, and state after the update."""
    parallel = wrapped(plan.config, plan.kind)
    optimizer = make_optimizer(parallel.model, recipe(MODELS[0]).train.optimizer)
    objective, batch = CoCaObjective(LossConfig()), full_batch(plan.config, plan.pairs)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(parallel, objective, batch, micro_batch=plan.micro_batch)

    step()
    figures = {"sent": sent_by(step, 2), "sent by the optimizer": sent_by(optimizer.step, 2)}
    with flop_counter() as counter, kept_tensors(parallel.model) as kept:
        step()
    state = [it for values in optimizer.state.values() for it in values.values() if it.ndim]
    for name, tensors in (
        ("weights", list(parallel.model.parameters())),
        ("gradients", [it for _, it in parallel.gradients()]),
        ("optimizer", state),
    ):
        # Shards of one block may be parts of one storage.
        stores = [parallel_module._local(it.detach()).untyped_storage() for it in tensors]
        figures[f"bytes of {name}"] = sum({it.data_ptr(): it.nbytes() for it in stores}.values())
    # Memory of one micro-batch is used again for the next, and FSDP keeps weights as well.
    if plan.kind == "ddp" and plan.passes == 1:
        figures["bytes of activations"] = sum(kept.values())
    return {**figures, "flops": counter.get_total_flops()}


def measured_loss(plan: Plan) -> Figures:
    """Measure the memory and traffic of value and gradient of the contrastive loss alone."""
    # Each tensor gets its own mapping, so that those of before leave no gaps to fill.
    mmap_threshold = -3
    ctypes.CDLL(None).mallopt(mmap_threshold, 2**16)

    def loss(count: int) -> Callable[[], None]:
        sides = [F.normalize(torch.randn(count, plan.config.embed_dim), dim=1) for _ in range(2)]
        images, texts = (side.requires_grad_() for side in sides)
        return lambda: contrastive_loss(images, texts, torch.tensor(10.0)).loss.backward()

    loss(8)()
    whole = loss(plan.pairs)
    forget_peak()
    before = peak_bytes()
    sent = sent_by(whole, 1)
    return {"bytes of the loss": peak_bytes() - before, "sent": sent}


# find_unused_parameters of DDP.


def without_search(config: CoCaConfig) -> ParallelModel[CoCa]:
    """Wrap a model as `ParallelModel` would without `find_unused_parameters`."""

    def ddp(module: torch.nn.Module, **_: object) -> DistributedDataParallel:
        del module.unused
        return DistributedDataParallel(module)

    with mock.patch.object(parallel_module, "DistributedDataParallel", ddp):
        return wrapped(config, "ddp")


def search_cost(steps: int) -> Figures:
    """Measure what the search adds to a step, as a fraction of its processor time.

    The search walks over the graph, whose size depends on layers and not on widths. So it is
    measured on narrow layers, where little else takes time, and divided by the step of the model.
    """
    image, text = CHECKED.image, CHECKED.text
    assert isinstance(image, ViTConfig)
    sizes: dict[str, Any] = {"width": 64, "heads": 1, "mlp_width": 64}
    narrow = replace(
        CHECKED,
        image=replace(image, **sizes),
        text=replace(text, vocab_size=1000, **sizes),
        pooler=replace(CHECKED.pooler, heads=1),
        embed_dim=64,
    )
    models = (wrapped(narrow, "ddp"), without_search(narrow), without_search(CHECKED))
    seconds: list[list[float]] = [[], [], []]
    for turn in range(steps + 4):
        for which in ((0, 1, 2), (1, 0, 2))[turn % 2]:
            model = models[which]
            batch = full_batch(model.model.config, CHECK_PAIRS if which == 2 else 1)
            model.model.zero_grad()
            start = time.process_time()
            backward(model, CoCaObjective(LossConfig()), batch)
            seconds[which].append(time.process_time() - start)
    # DDP arranges its buckets in the first steps.
    slow, fast, whole = (statistics.median(times[4:]) for times in seconds)
    return {"with seconds": slow, "without seconds": fast, "added": (slow - fast) / whole}


def restart_difference() -> Figures:
    """Compare the gradients of a first step with those of a later step on equal data and weights.

    A resumed run makes its first step where an undisturbed run makes a later one.
    """
    objective, figures = CoCaObjective(LossConfig()), {}
    for name in ("with", "without"):
        parallel = wrapped(CHECKED, "ddp") if name == "with" else without_search(CHECKED)
        torch.manual_seed(distributed.get_rank())
        batch, found = full_batch(CHECKED, CHECK_PAIRS), []
        for _ in range(3):
            parallel.model.zero_grad()
            backward(parallel, objective, batch)
            found.append(torch.cat([it.flatten() for _, it in parallel.gradients()]))
        first, _, later = found
        figures[f"{name}: gradients that differ"] = (first != later).float().mean().item()
        figures[f"{name}: largest difference"] = float((first - later).abs().max() / later.std())
    return figures


# The benchmark.

QUICK = {
    "rounds": 1,
    "models": ["coca_base"],
    "checks": ["ddp 2", "fsdp 2 micro", "unused"],
    "steps": 4,
}
UNITS = {
    "sent*": "bytes",
    "bytes of *": "bytes",
    "flops": "FLOP",
    "* seconds": "processor s",
    "added": "fraction",
    "*differ": "fraction",
    "*: largest difference": "1",
}


def contestant(arguments: argparse.Namespace) -> None:
    name = arguments.contestant
    if not isolated():
        print("traffic of other programs on the loopback interface counts", file=sys.stderr)
    if name in STEPS:
        emit(on_ranks(STEPS[name].ranks, partial(measured_step, STEPS[name])))
    elif name in LOSSES:
        emit(on_ranks(LOSSES[name].ranks, partial(measured_loss, LOSSES[name])))
    elif name == "unused":
        emit(on_ranks(2, partial(search_cost, arguments.steps)))
    else:
        emit(on_ranks(4, restart_difference))


def referee(arguments: argparse.Namespace) -> Rounds:
    def measure(name: str, rounds: int) -> Rounds:
        options = [f"--steps={arguments.steps}", f"--contestant={name}"]
        return in_turn({name: options}, rounds=rounds)

    measured = Rounds()
    for name in arguments.checks:
        # Only processor time differs from round to round.
        measured.update(measure(name, arguments.rounds if name == "unused" else 1))
    hardware = Hardware(
        arguments.peak * 1e12,
        arguments.fp32_peak * 1e12,
        arguments.utilization,
        arguments.node,
        arguments.nvlink * 1e9,
        arguments.network * 1e9,
    )
    write_report(
        arguments,
        measured,
        "many-ranks",
        "CoCa on many GPUs: a prediction, and its check on CPU ranks",
        *prediction(arguments, hardware),
        *check(measured),
        packages=("torch", "timm"),
    )
    return measured


def plan_of(model: str, gpus: int, batch: int | None) -> Plan | str:
    """Plan a step of a recipe, or give the reason why it refuses this number of GPUs."""
    config = recipe(model)
    batch = batch or config.data.loader.batch_size
    if gpus < 1 or batch % gpus:
        return f"{batch:,} pairs are not divisible by {gpus} ranks"
    return Plan(config.model, "fsdp", gpus, batch // gpus, config.train.micro_batch)


def prediction(arguments: argparse.Namespace, hardware: Hardware) -> Iterator[str]:
    columns = ["model, GPUs", "pairs a rank", "micro-batches", "TFLOP a pair", "GB state"]
    columns += ["GB copies", "GB activations", "GB losses", "GB in all", "GB sent"]
    columns += ["with DDP: GB in all", "GB sent", "s a step", "pairs/s a GPU", "days"]
    rows = []
    for model in arguments.models:
        for gpus in arguments.gpus:
            plan = plan_of(model, gpus, arguments.batch)
            if isinstance(plan, str):
                rows.append([f"{model}, {gpus}", plan, *[""] * (len(columns) - 2)])
                continue
            ddp, held = replace(plan, kind="ddp"), plan.memory()
            bounds = plan.seconds(hardware)
            steps = recipe(model).train.steps
            gigabytes = [*held.values(), sum(held.values()), sum(plan.sent().values())]
            gigabytes += [sum(ddp.memory().values()), sum(ddp.sent().values())]
            rows.append(
                [
                    f"{model}, {gpus}",
                    f"{plan.pairs:,}",
                    str(plan.passes),
                    f"{sum(plan.flops()) / plan.pairs / 1e12:.2f}",
                    *(f"{value / 1e9:.2f}" for value in gigabytes),
                    _range(bounds, 2),
                    _range([plan.pairs / it for it in bounds], 0),
                    _range([steps * it / 86_400 for it in bounds], 1),
                ]
            )
    yield (
        f"Recipes of `recipes/pretrain`, FSDP, bf16. Assumed: {hardware.peak / 1e12:.0f} TFLOP/s "
        f"in bf16 and {hardware.fp32_peak / 1e12:.0f} in fp32, of which {hardware.utilization:.0%} "
        f"are used (an assumption, not measured here); {hardware.node} GPUs a node, "
        f"{hardware.nvlink / 1e9:.0f} GB/s between them and {hardware.network / 1e9:.0f} GB/s of "
        "each to other nodes, where rings use all adapters of a node. Ranges: traffic hidden "
        "entirely, and not at all. Reading data is not included."
    )
    yield table(columns, rows)
    if "coca_2b" in arguments.models:
        largest = recipe("coca_2b")
        _, each = count(largest.model, half=True).step
        used = each * largest.data.loader.batch_size * largest.train.steps
        yield (
            "The paper trained the 2B model in about 5 days on 2,048 TPUv4 (275 TFLOP/s in bf16): "
            f"by these FLOPs, without gradient cache, {used / (2048 * 275e12 * 5 * 86_400):.0%} of "
            "their peak."
        )
    ranks, pairs, width = 64, 32_768 // 64, CoCaConfig.presets()["coca_2b"].embed_dim
    alone, square = loss_bytes(ranks, pairs, width), FP32 * (ranks * pairs) ** 2
    yield (
        f"The contrastive loss of 32,768 pairs over 64 ranks, embeddings of {width}: "
        f"{alone / 1e9:.2f} GB on each rank. One matrix of all similarities takes "
        f"{square / 1e9:.2f} GB, and a loss without blocks needs several."
    )


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:,.{digits}f}" for value in sorted(values))
    return low if low == high else f"{low} to {high}"


def check(measured: Rounds) -> Iterator[str]:
    rows, updates = [], []
    for name, plan in (STEPS | LOSSES).items():
        if name not in measured:
            continue
        (found,) = measured[name]
        updates.append(found.get("sent by the optimizer", 0))
        for quantity, expected in predicted(plan, name).items():
            values = f"{expected:,.0f}", f"{found[quantity]:,.0f}"
            rows.append([f"{name}, {quantity}", *values, f"{found[quantity] / expected - 1:+.2%}"])
    if rows:
        yield (
            f"Check: `coca_mini`, {CHECK_PAIRS} pairs a rank, fp32, gloo; `micro`: in "
            f"micro-batches of {CHECK_MICRO}. `loss`: the contrastive loss alone; ranks, and pairs "
            "of each. Bytes and FLOPs of a rank."
        )
        yield table(["kind, ranks", "predicted", "measured", "difference"], rows)
        yield (
            "Not predicted: what Adafactor's means of rows and columns send with FSDP, up to "
            f"{max(updates):,.0f} bytes of an update."
        )
    if "unused" in measured:
        yield (
            "`find_unused_parameters` of DDP adds to the processor time of a step, as a fraction, "
            f"2 ranks, {len(measured['unused'])} rounds: "
            f"{figure(measured['unused'], 'added').shown(4)}."
        )
    if "restart" in measured:
        (found,) = measured["restart"]
        yield (
            "Gradients of a first step against those of the third, on equal data and weights, 4 "
            f"ranks: {found['with: gradients that differ']:.1%} of the numbers differ with it, "
            f"{found['without: gradients that differ']:.1%} without, by at most "
            f"{found['without: largest difference']:.1e} of their standard deviation. DDP then "
            "rebuilds its buckets after the first step, so a resumed run sums in another order."
        )


def predicted(plan: Plan, name: str) -> Figures:
    if name in LOSSES:
        added = loss_bytes(plan.ranks, plan.pairs, plan.config.embed_dim)
        return {"bytes of the loss": added, "sent": plan.sent()["loss"]}
    held = plan.state()
    if plan.kind == "ddp" and plan.passes == 1:
        once, each = count(plan.config, half=plan.half).kept
        held["activations"] = once + each * plan.pairs
    named = {f"bytes of {part}": value for part, value in held.items()}
    return {"sent": sum(plan.sent().values()), "flops": sum(plan.flops()), **named}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64, 512])
    parser.add_argument("--batch", type=int, help="pairs of all ranks (default: the recipe's)")
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of a GPU in bf16")
    parser.add_argument("--fp32-peak", type=float, default=67, help="TFLOP/s of a GPU in fp32")
    parser.add_argument("--utilization", type=float, default=0.4, help="fraction of the peak")
    parser.add_argument("--node", type=int, default=8, help="GPUs of a node")
    parser.add_argument("--nvlink", type=float, default=450, help="GB/s of a GPU within a node")
    parser.add_argument("--network", type=float, default=50, help="GB/s of a GPU between nodes")
    names = [*STEPS, *LOSSES, "restart", "unused"]
    parser.add_argument(
        "--checks", nargs="*", choices=names, default=names, help="none: prediction only"
    )
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each, in a round")
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
