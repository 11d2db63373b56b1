"""A model shared out over two ranks, looked at from both."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from coca.model.coca import CoCa
from coca.train.backward import backward
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.objective import CoCaObjective, LossConfig
from tiny import sharpened, tiny_config
from tiny_ranks import Results, ragged_batch
from tiny_seed import seed_weights

CPU = torch.device("cpu")
LIMIT = 0.5


def make_model(kind: Kind, *, bf16: bool = False) -> ParallelModel[CoCa]:
    seed_weights()
    return ParallelModel(sharpened(CoCa(tiny_config())), kind, device=CPU, bf16=bf16)


def look() -> dict[str, Results]:
    return {
        "parts": passes_in_parts(),
        "pieces": pieces(),
        "ddp": half_precision("ddp"),
        "fsdp": half_precision("fsdp"),
        "clipped": clipped(),
    }


def passes_in_parts() -> Results:
    """A gradient behind a first pass and behind the last, where rank r asks for r + 1."""
    seed_weights()
    linear = nn.Linear(1, 1, bias=False)
    parallel = ParallelModel(linear, "ddp", device=CPU)
    gradients = {}
    for name, last in (("first", False), ("last", True)):
        with parallel.sync(last):
            parallel.run(
                lambda model: model.weight.sum() * (DistributedContext.current().rank + 1)
            ).backward()
        (gradients[name],) = (gradient.clone() for _, gradient in parallel.gradients())
    return gradients


def pieces() -> Results:
    """How many numbers of each parameter this rank has."""
    model = make_model("fsdp").model
    return {
        name: torch.tensor(p.to_local().numel() if isinstance(p, DTensor) else -p.numel())
        for name, p in model.named_parameters()
    }


def half_precision(kind: Kind) -> Results:
    """Loss and gradients of a step in bf16, and the type of the weights."""
    parallel = make_model(kind, bf16=True)
    batch = ragged_batch(8).split(4)[DistributedContext.current().rank]
    losses = backward(
        parallel,
        CoCaObjective(LossConfig()),
        batch,
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    )
    assert all(p.dtype == torch.float32 for p in parallel.model.parameters())
    return {"loss": losses.total, "grad_norm": parallel.gradient_norm()}


def clipped() -> Results:
    """The length of a gradient in pieces, before and after it was clipped, for the whole."""
    parallel = make_model("fsdp")
    batch = ragged_batch(8).split(4)[DistributedContext.current().rank]
    backward(parallel, CoCaObjective(LossConfig()), batch)
    norm = parallel.gradient_norm()
    whole = whole_norm(parallel.model)
    parallel.clip_(norm, LIMIT)
    distributed.barrier()
    return {"norm": norm, "whole": whole, "clipped": whole_norm(parallel.model)}


def whole_norm(model: nn.Module) -> Tensor:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]
    return torch.cat([gradient.flatten() for gradient in whole]).double().norm()
