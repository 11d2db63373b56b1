"""Training that ranks share: steps, runs, checkpoints, and how each rank ends after a failure."""

import dataclasses
import errno
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from coca.core.errors import CocaError, ConfigError, DataError, StorageError
from coca.data.batch import Batch
from coca.model import sharded_safetensors
from coca.model.coca import CoCa
from coca.model.deferred_weights import WeightsRecorder
from coca.train import checkpoints as checkpoint_manager
from coca.train.backward import backward
from coca.train.checkpoints import gather_full_tensors, model_tensors, optimizer_state
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import FsdpConfig, Kind, ParallelModel
from coca.train.losses import LossConfig, Losses
from coca.train.objective import CoCaObjective
from coca.train.optim.ema import EmaConfig
from coca.train.tracker import JsonLinesTracker
from coca.train.trainer import Trainer, TrainResult
from tiny import seed_weights, sharpened, tiny_config
from tiny_ranks import Results, ragged_batch
from tiny_run import SignalAfter, TinyStream, kill_at_sync_number, tiny_trainer

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


class Collectives(TorchDispatchMode):
    """Counts the collectives of a block by their operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace == "c10d":
            self.counts[func._opname.strip("_")] += 1
        return func(*args, **(kwargs or {}))


def step(
    kind: Kind,
    loss: str,
    micro_batch: int | None,
    prefix: str,
    fsdp: FsdpConfig | None = None,
) -> Results:
    """Figures and whole gradients of one step of the same model everywhere, and its collectives."""
    seed_weights()
    model = sharpened(CoCa(tiny_config()))
    parallel = ParallelModel(model, kind, device=torch.device("cpu"), fsdp=fsdp)
    world = DistributedContext.current()
    batch = ragged_batch(PAIRS).split(PAIRS // world.size)[world.rank]
    with Collectives() as collectives:
        losses = backward(parallel, CoCaObjective(LOSSES[loss]), batch, micro_batch=micro_batch)
    norm = parallel.gradient_norms().total
    gradients = {
        name: whole(parameter.grad)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    figures = {"loss": losses.total, **losses.parts, "grad_norm": norm}
    return {
        **{f"{prefix}/figure/{name}": value for name, value in figures.items()},
        **{f"{prefix}/gradient/{name}": gradient for name, gradient in gradients.items()},
        **{
            f"{prefix}/collectives/{operation}": torch.tensor(count)
            for operation, count in collectives.counts.items()
        },
    }


HYBRID = {
    f"{replicas} x {'freed' if reshard else 'kept'}": FsdpConfig(
        replicas=replicas, reshard_after_forward=reshard
    )
    for replicas in (1, 2)
    for reshard in (True, False)
}
"""Settings of FSDP by name: copies of the model, and what becomes of gathered weights."""


def sharded_steps() -> Results:
    """A step of each setting of FSDP, at once and in two micro-batches."""
    results: Results = {}
    for name, fsdp in HYBRID.items():
        for micro_batch in (None, 1):
            results |= step("fsdp", "both", micro_batch, f"{name}/{micro_batch}", fsdp)
    return results


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


def first_weights(folder: Path, steps: int = 2) -> dict[str, Results]:
    """Weights and averages of runs of FSDP at their start and end, by the model's device."""
    found = {}
    for device in ("cpu", "meta"):
        seed_weights()
        with WeightsRecorder() if device == "meta" else nullcontext() as recorder:
            model = CoCa(tiny_config(initial_bias=-10.0))
        trainer = shared_trainer(
            folder / device,
            "fsdp",
            model=model,
            initial=recorder.weights_of(model) if recorder else None,
            losses=LossConfig(contrastive="sigmoid"),
            ema=EmaConfig(decay=0.9),
            steps=steps,
        )
        trainer.resume()
        found[device] = everything(trainer, "start")
        trainer.fit()
        found[device] |= everything(trainer, "end")
    return found


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


def hybrid_runs(folder: Path) -> dict[str, Results]:
    """The ends of two runs with copies of shards: one that is not stopped, and one that resumes."""
    settings: dict[str, Any] = {"fsdp": HYBRID["2 x kept"], "micro_batch": 1}
    whole = in_parts(folder / "whole", "fsdp", **settings)
    whole.fit()
    with suppress(DataError):
        in_parts(folder / "run", "fsdp", loader=SharedStream(ends_at=6), **settings).fit()
    rest = in_parts(folder / "run", "fsdp", **settings)
    rest.fit()
    return {"whole": everything(whole, "end"), "resumed": everything(rest, "end")}


def refused_copies() -> str:
    """The error about a number of copies that does not divide the ranks."""
    try:
        step("fsdp", "both", None, "", FsdpConfig(replicas=3))
    except ConfigError as error:
        return str(error)
    return ""


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


Outcome = dict[str, Any]
"""Numbers and words about one rank."""


class Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    listener = Listener()
    logging.getLogger("coca").addHandler(listener)
    yield listener.words
    logging.getLogger("coca").removeHandler(listener)


def ended(trainer: Trainer[CoCa]) -> Outcome:
    """How a call of `fit` ends."""
    with listening() as words:
        try:
            result: TrainResult | None = trainer.fit()
            error = None
        except CocaError as raised:
            result, error = None, raised
    return {
        "step": trainer.step,
        "interrupted": result is not None and result.interrupted,
        "terminated": result is not None and result.terminated,
        "error": "" if error is None else f"{type(error).__name__}: {error}",
        "log": words,
        "bad_steps": trainer._metrics.bad_steps,
        "finite": all(bool(t.isfinite().all()) for t in trainer.weights().values()),
    }


def poisoned(*batches: int) -> SharedStream:
    """A stream whose last image, which rank 1 has, is not finite in these batches."""
    stream = SharedStream(poisoned=frozenset(batches))
    stream.poisoned_row = PAIRS - 1
    return stream


def bad_steps(folder: Path) -> Outcome:
    return ended(shared_trainer(folder, "ddp", loader=poisoned(2, 6)))


def bad_steps_in_pieces(folder: Path) -> Outcome:
    return ended(shared_trainer(folder, "fsdp", loader=poisoned(2)))


def too_many_bad_steps(folder: Path) -> Outcome:
    loader = poisoned(*range(6, 40))
    return ended(shared_trainer(folder, "ddp", loader=loader, max_bad_steps=3))


def bad_gradient(folder: Path) -> Outcome:
    """A piece of a gradient is not finite, which rank 1 has; its parameter is to be named."""
    objective = SpoiledGradient(LossConfig())
    return ended(shared_trainer(folder, "fsdp", steps=1, objective=objective))


class SpoiledGradient(CoCaObjective):
    """The last row of the image projection gets an infinite gradient."""

    def __call__(self, model: CoCa, batch: Batch) -> Losses:
        losses = super().__call__(model, batch)
        weight = dict(model.named_parameters())["image_projection.weight"]
        # Its value is 0 and its gradient 0 / 0.
        return losses._replace(total=losses.total + (weight[-1] * 0).sum().sqrt())


def data_that_end_on_rank_1(folder: Path) -> Outcome:
    loader = SharedStream(ends_at=7 if DistributedContext.current().rank else None)
    first = ended(shared_trainer(folder, "ddp", loader=loader))
    return first | {"again": ended(shared_trainer(folder, "ddp"))["step"]}


def signal_to_rank_1(folder: Path) -> Outcome:
    step = 4 if DistributedContext.current().rank else 99
    trainer = shared_trainer(folder, "ddp", objective=SignalAfter(step, signal.SIGTERM))
    return ended(trainer)


def full_disk_of_rank_1(folder: Path) -> Outcome:
    """Rank 1 has no disk space for its shard of the second checkpoint; then it has space again."""
    flush, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        # One flush for each of its shards of the model and of the optimizer.
        if DistributedContext.current().rank == 1 and len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    os.fsync = full  # type: ignore[assignment]
    trainer = shared_trainer(folder, "ddp")
    first = ended(trainer)
    os.fsync = flush
    return first | {"kept": saved(folder), "again": ended(trainer)["step"]}


def folders_of_their_own(folder: Path) -> Outcome:
    """Each rank is another machine, whose run folder no other rank sees."""
    own = folder / f"machine-{DistributedContext.current().rank}"
    own.mkdir(parents=True)
    with chdir(own):
        return ended(shared_trainer(Path("run"), "fsdp"))


def saved(folder: Path) -> list[str]:
    # Without those that the main rank is removing at this moment.
    return sorted(path.name for path in (folder / "checkpoints").glob("step_*"))


def no_space_for_a_row(folder: Path) -> Outcome:
    """Only the main rank writes rows, and it cannot write that of step 4, once."""

    class Full:
        tried = False

        def rewind(self, step: int) -> None: ...

        def log(self, step: int, metrics: object) -> None:
            if step == 4 and not self.tried:
                self.tried = True
                raise StorageError("metrics.jsonl cannot be written: No space left on device")

        def close(self) -> None: ...

    trackers = [JsonLinesTracker(folder), Full()]
    trainer = shared_trainer(folder, "ddp", trackers=trackers)
    first = ended(trainer)
    return first | {"again": ended(trainer)["step"]}


def run_of_another_model(folder: Path) -> Outcome:
    """Only the main rank reads the folder's checkpoint, and refuses it."""
    ended(shared_trainer(folder, "ddp", steps=5))
    model = CoCa(tiny_config(initial_temperature=0.1))
    return ended(shared_trainer(folder, "ddp", model=model))


def slow_saves(folder: Path) -> Outcome:
    """The first save ends when a step has been made behind it."""
    write, events, every = sharded_safetensors.write_shards, [], 2
    trainer = shared_trainer(folder, "ddp", steps=6, save_every=every)

    def slow(*arguments: Any) -> Any:
        events.append(("begin", trainer.step))
        while len(events) == 1 and trainer.step <= every:
            time.sleep(0.001)
        paths = write(*arguments)
        events.append(("end", trainer.step))
        return paths

    checkpoint_manager.write_shards = slow  # type: ignore[assignment, attr-defined]
    outcome = ended(trainer)
    checkpoint_manager.write_shards = write  # type: ignore[attr-defined]
    return outcome | {"events": events, "kept": saved(folder)}


SCENES: tuple[Callable[[Path], Outcome], ...] = (
    bad_steps,
    bad_steps_in_pieces,
    bad_gradient,
    too_many_bad_steps,
    data_that_end_on_rank_1,
    signal_to_rank_1,
    full_disk_of_rank_1,
    folders_of_their_own,
    no_space_for_a_row,
    run_of_another_model,
    slow_saves,
)


def all_scenes(folder: Path) -> dict[str, Outcome]:
    seed_weights()
    return {scene.__name__: scene(folder / scene.__name__) for scene in SCENES}
