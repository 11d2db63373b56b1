"""Steps with compiled blocks, in processes without the type checks of the tests."""

import os
from tempfile import TemporaryDirectory
from typing import Any

import torch

from coca.model.coca import CoCa
from coca.train.backward import backward, evaluate_batch
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from tiny import seed_weights, sharpened, tiny_config
from tiny_ranks import Results, ragged_batch
from tiny_shared_run import PAIRS, whole

CPU = torch.device("cpu")
OBJECTIVE = CoCaObjective(LossConfig())
CASES: tuple[tuple[Kind, int | None], ...] = (("ddp", None), ("ddp", 2), ("fsdp", None))


def made(kind: Kind = "none", **settings: Any) -> ParallelModel[CoCa]:
    """The same model everywhere."""
    seed_weights()
    return ParallelModel(sharpened(CoCa(tiny_config())), kind, device=CPU, **settings)


def step(
    parallel: ParallelModel[CoCa], micro_batch: int | None = None, *, seed: int = 5
) -> Results:
    """Loss and whole gradients of one step, by parameter name."""
    world = DistributedContext.current()
    batch = ragged_batch(PAIRS, seed=seed).split(PAIRS // world.size)[world.rank]
    parallel.model.zero_grad()
    losses = backward(parallel, OBJECTIVE, batch, micro_batch=micro_batch)
    return {
        "loss": losses.total,
        **{
            name: whole(parameter.grad)
            for name, parameter in parallel.model.named_parameters()
            if parameter.grad is not None
        },
    }


def steps_with_and_without() -> dict[str, Results]:
    """Steps of each kind, plain and compiled, and the loss of an evaluation after them."""
    # Kernels in the user's cache may be of other instructions (ATEN_CPU_CAPABILITY).
    with TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        return _steps()


def _steps() -> dict[str, Results]:
    results: dict[str, Results] = {}
    for kind, micro_batch in CASES:
        plain, compiled = made(kind), made(kind, compiled=True, recompute_every=2)
        name = f"{kind}/{micro_batch}"
        for way, parallel in (("plain", plain), ("compiled", compiled)):
            results[f"{name}/{way}"] = step(parallel, micro_batch)
            loss = evaluate_batch(parallel, OBJECTIVE, ragged_batch(2)).total
            parallel.model.train()
            results[f"{name}/{way}"]["evaluated"] = loss
    # As in a run that was started again: captions of other lengths are compiled first.
    torch.compiler.reset()
    resumed = made("ddp", compiled=True, recompute_every=2)
    step(resumed, seed=6)
    results["resumed"] = step(resumed)
    return results


def step_without_a_compiler() -> str:
    """The error of a step on a machine without a C++ compiler."""
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("/missing/c++",), "force_disable_caches": True}):
        try:
            step(made(compiled=True))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""
