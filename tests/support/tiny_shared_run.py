"""What ranks train together in tests, and what they leave: steps, whole runs, checkpoints."""

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from coca.core.errors import DataError
from coca.data.batch import Batch
from coca.model.coca import CoCa
from coca.train.backward import backward
from coca.train.checkpoints.state import gather_full_tensors, model_tensors, optimizer_state
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.optim.ema import EmaConfig
from coca.train.trainer import Trainer
from tiny import sharpened, tiny_config
from tiny_ranks import Results, ragged_batch
from tiny_run import TinyStream, kill_at_sync_number, tiny_trainer
from tiny_seed import seed_weights

PAIRS = 8
LOSSES = {
    "both": LossConfig(),
    "contrastive": LossConfig(captioning_weight=0.0),
    "captioning": LossConfig(contrastive_weight=0.0),
}
KINDS: tuple[Kind, ...] = ("ddp", "fsdp")


class SharedStream(TinyStream):
    """This rank's part of ragged batches."""

    def __init__(self, **settings: Any) -> None:
        world = DistributedContext.current()
        super().__init__(batch_size=PAIRS, rank=world.rank, ranks=world.size, **settings)

    def _batch(self, number: int, start: int) -> Batch:
        plain = super()._batch(number, start)
        tokens = ragged_batch(self.batch_size, seed=number).tokens
        return dataclasses.replace(plain, tokens=tokens)


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def step(kind: Kind, loss: str, micro_batch: int | None, prefix: str) -> Results:
    """Figures and whole gradients of one step of the same model everywhere."""
    seed_weights()
    model = sharpened(CoCa(tiny_config()))
    parallel = ParallelModel(model, kind, device=torch.device("cpu"))
    world = DistributedContext.current()
    batch = ragged_batch(PAIRS).split(PAIRS // world.size)[world.rank]
    losses = backward(parallel, CoCaObjective(LOSSES[loss]), batch, micro_batch=micro_batch)
    norm = parallel.gradient_norm()
    gradients = {
        name: whole(parameter.grad)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    figures = {"loss": losses.total, **losses.parts, "grad_norm": norm}
    return {
        **{f"{prefix}/figure/{name}": value for name, value in figures.items()},
        **{f"{prefix}/gradient/{name}": gradient for name, gradient in gradients.items()},
    }


def shared_trainer(
    run_folder: Path, kind: Kind, *, loader: Any = None, **changes: Any
) -> Trainer[CoCa]:
    return tiny_trainer(run_folder, loader=loader or SharedStream(), parallel=kind, **changes)


CASES = [("both", None), ("both", 1), ("contrastive", None), ("captioning", None)]
RUNS = (("adamw", 8), ("adafactor", 2))
"""Optimizers and steps; Adafactor is slow on shards, so it runs on two ranks at most."""


def steps_and_runs(folder: Path) -> Results:
    """Steps with each loss, at once and in parts, and whole runs, for each kind."""
    results: Results = {}
    for kind in KINDS:
        for loss, micro_batch in CASES:
            results |= step(kind, loss, micro_batch, f"{kind}/{loss}/{micro_batch}")
        for optimizer, steps in RUNS:
            if optimizer == "adafactor" and DistributedContext.current().size > 2:
                continue
            results |= run(folder / kind, kind, optimizer, steps, prefix=f"{kind}/{optimizer}")
    return results


def run(folder: Path, kind: Kind, optimizer: str, steps: int, *, prefix: str) -> Results:
    """The weights at the end of a run."""
    trainer = shared_trainer(
        folder / optimizer, kind, steps=steps, save_every=steps, optimizer=optimizer
    )
    trainer.fit()
    return {f"{prefix}/{name}": weight for name, weight in trainer.weights().items()}


def in_parts(folder: Path, kind: Kind, **changes: Any) -> Trainer[CoCa]:
    """A run that saves at 3, 6, ... and, if asked to, ends before its last step."""
    return shared_trainer(folder, kind, steps=9, save_every=3, ema=EmaConfig(decay=0.9), **changes)


def first_parts(folder: Path) -> Results:
    """For each kind, a run that is not stopped, and one that ends behind step 6."""
    for kind in KINDS:
        in_parts(folder / kind / "whole", kind).fit()
        with suppress(DataError):
            in_parts(folder / kind / "run", kind, loader=SharedStream(ends_at=6)).fit()
    return {}


def resumed(runs: Mapping[str, Path]) -> Results:
    """Each run's weights, moments and averages as they were read, then its weights at the end."""
    results: Results = {}
    for name, folder in runs.items():
        for kind in KINDS:
            trainer = in_parts(folder / kind / "run", kind)
            trainer.resume()
            results |= everything(trainer, f"{name}/{kind}/read")
            trainer.fit()
            results |= everything(trainer, f"{name}/{kind}/end")
    return results


def everything(trainer: Trainer[CoCa], prefix: str) -> Results:
    """All tensors of a run, put together."""
    assert trainer.ema is not None
    moments, _ = optimizer_state(trainer.model, trainer.optimizer)
    groups = {
        "model": model_tensors(trainer.model),
        "optimizer": moments,
        "ema": trainer.ema.tensors(),
    }
    return {
        f"{prefix}/{group}/{name}": tensor.clone()
        for group, tensors in groups.items()
        for name, tensor in gather_full_tensors(tensors).items()
    }


def train_until_killed(
    folder: Path, kind: Kind, kill: tuple[int, int | None] | None, settings: Mapping[str, Any]
) -> None:
    """A whole run; `kill` is a rank and the number of the flush to disk at which it dies.

    Without a flush this rank waits at its last step until it is killed.
    """
    loader = SharedStream()
    if kill is not None and kill[0] == DistributedContext.current().rank:
        if kill[1] is None:
            loader.waits_at = settings["steps"] - 1
        else:
            kill_at_sync_number(kill[1])
    shared_trainer(folder, kind, loader=loader, **settings).fit()
