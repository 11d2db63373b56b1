"""Time and memory of a training step with compiled blocks and with recomputed activations.

    python benchmarks/blocks.py
    python benchmarks/blocks.py --model coca_small --pairs 64

Processor seconds do not depend on other work of the machine. `first step` includes compilation;
the first round fills torch's compiler cache, which later rounds and later starts of a run use.
"""

import argparse
import time

import torch
from big_batch import MODELS, make_batch
from options import run
from side_by_side import Rounds, emit, figure, in_turn, peak_bytes, ratio, table, write_report

from coca.core.malloc import keep_freed_memory
from coca.model.coca import CoCa
from coca.train.backward import backward
from coca.train.distributed.parallel import ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.optimizer import OptimizerConfig, make_optimizer

NAMES = {
    "kept": "all activations kept",
    "compiled": "compile",
    "half": "recompute_every 2",
    "recomputed": "recompute_every 1",
    "both": "compile, recompute_every 1",
}
SETTINGS = {"kept": None, "compiled": None, "half": 2, "recomputed": 1, "both": 1}

QUICK = {"model": "narrow", "pairs": 8, "steps": 1, "rounds": 2, "only": ["kept", "recomputed"]}
UNITS = {"step_s": "s", "first_s": "s", "peak_bytes": "bytes"}


def contestant(arguments: argparse.Namespace) -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    name, config = arguments.contestant, MODELS[arguments.model]
    model = ParallelModel(
        CoCa(config),
        "none",
        device=torch.device("cpu"),
        compiled=name in ("compiled", "both"),
        recompute_every=SETTINGS[name],
    )
    objective = CoCaObjective(LossConfig())
    optimizer = make_optimizer(model.model, OptimizerConfig(lr=1e-4))
    batch = make_batch(config, arguments.pairs)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = backward(model, objective, batch).total.item()
        optimizer.step()
        return loss

    started = time.perf_counter()
    losses = [step()]
    first, times = time.perf_counter() - started, []
    for _ in range(arguments.steps):
        started = time.process_time()
        losses.append(step())
        times.append(time.process_time() - started)
    emit(
        {
            "step_s": min(times),
            "first_s": first,
            "peak_bytes": peak_bytes(),
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
    )


def referee(arguments: argparse.Namespace) -> Rounds:
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("pairs", "steps", "model")]
    rounds = in_turn(
        {name: [f"--contestant={name}", *shared] for name in arguments.only},
        rounds=arguments.rounds,
    )
    write_report(
        arguments,
        rounds,
        f"blocks_{arguments.model}_{arguments.pairs}",
        f"Compiled and recomputed blocks, {arguments.model}, {arguments.pairs} pairs, fp32",
        "Processor seconds of a step, wall seconds of the first step, peak memory of the process.",
        results(rounds),
        packages=("torch",),
    )
    return rounds


def results(rounds: Rounds) -> str:
    rows = []
    for name, own in rounds.items():
        base = rounds["kept"]
        row = [NAMES[name], figure(own, "step_s").shown(), ratio(own, base, "step_s").shown()]
        row.append(figure(own, "first_s").shown(0))
        row.append(f"{figure(own, 'peak_bytes').median / 2**30:.2f}")
        row.append(ratio(own, base, "peak_bytes").shown())
        row.append(f"{own[0]['last_loss']:.5f}")
        rows.append(row)
    columns = ["", "step, s", "ratio", "first step, s", "peak GiB", "ratio", "last loss"]
    return table(columns, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=64, help="of a step (default 64)")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a run (default 4)")
    parser.add_argument("--model", choices=list(MODELS), default="coca_tiny")
    parser.add_argument("--only", nargs="+", choices=list(NAMES), default=list(NAMES))
    run(parser, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
