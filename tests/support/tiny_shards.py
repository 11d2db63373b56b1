"""Models, tensors and averaged weights that are sharded over ranks."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn import functional as F

from coca.core.errors import StorageError
from coca.model.coca import CoCa
from coca.model.encoders.timm import TimmConfig
from coca.model.sharded_safetensors import copy_to_cpu, write_shards
from coca.train.backward import backward
from coca.train.distributed import parallel as parallel_module
from coca.train.distributed.context import DistributedContext
from coca.train.distributed.parallel import Kind, ParallelModel
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from coca.train.optim.ema import Ema, EmaConfig
from tiny import seed_weights, sharpened, tiny_config
from tiny_ranks import Results, ragged_batch

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
        "blocks ddp": foreign_blocks("ddp"),
        "blocks fsdp": foreign_blocks("fsdp"),
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
    return {"loss": losses.total, "grad_norm": parallel.gradient_norms().total}


def foreign_blocks(kind: Kind) -> Results:
    """Figures of a step with an encoder of timm, and the number of groups in it."""
    parallel_module.MIN_GROUP = 1_000
    seed_weights()
    image = TimmConfig(name="test_vit", image_size=32, patch_size=16, width=64)
    parallel = ParallelModel(CoCa(tiny_config(image=image)), kind, device=CPU)
    batch = ragged_batch(8)
    pixels = F.interpolate(batch.images, 32)
    batch = replace(batch, images=pixels).split(4)[DistributedContext.current().rank]
    losses = backward(parallel, CoCaObjective(LossConfig()), batch)
    groups = sum(isinstance(it, FSDPModule) for it in parallel.model.image_encoder.modules())
    return {
        "loss": losses.total,
        "grad_norm": parallel.gradient_norms().total,
        "groups": torch.tensor(groups),
    }


def clipped() -> Results:
    """The length of a gradient in pieces, before and after it was clipped, for the whole."""
    parallel = make_model("fsdp")
    batch = ragged_batch(8).split(4)[DistributedContext.current().rank]
    backward(parallel, CoCaObjective(LossConfig()), batch)
    norm = parallel.gradient_norms().total
    whole = whole_norm(parallel.model)
    parallel.clip_(norm, LIMIT)
    distributed.barrier()
    return {"norm": norm, "whole": whole, "clipped": whole_norm(parallel.model)}


def whole_norm(model: nn.Module) -> Tensor:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in gradients]
    return torch.cat([gradient.flatten() for gradient in whole]).double().norm()


WHOLE: dict[str, Tensor] = {
    "even": torch.arange(16.0).reshape(8, 2),
    "odd": torch.arange(15, dtype=torch.bfloat16).reshape(5, 3),
    # On more than one rank, some have nothing of it.
    "one row": torch.arange(6.0).reshape(1, 6),
    "columns": torch.arange(8).reshape(2, 4),
    "number": torch.tensor(3.5),
    "replicated": torch.rand(3, generator=torch.Generator().manual_seed(0)),
}
PLACEMENTS = {"replicated": Replicate(), "columns": Shard(1)}


def own_pieces() -> dict[str, Tensor]:
    """This rank's pieces of `WHOLE`; a number is whole on each."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    return {
        name: distribute_tensor(tensor, mesh, [PLACEMENTS.get(name, Shard(0))], src_data_rank=None)
        if tensor.ndim
        else tensor
        for name, tensor in WHOLE.items()
    }


def write(folder: Path) -> list[str]:
    groups = copy_to_cpu({"model": own_pieces(), "ema": {"even": WHOLE["even"]}, "optimizer": {}})
    ranks = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo"))
    return [str(path.relative_to(folder)) for path in write_shards(folder, groups, ranks)]


def write_into_a_file(folder: Path) -> str:
    """Rank 1 finds a file where its folder should be."""
    path = folder / "here" if distributed.get_rank() == 0 else folder / "file"
    ranks = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo"))
    try:
        write_shards(path, {"model": own_pieces()}, ranks)
    except StorageError as error:
        return str(error)
    return ""


PLAIN = EmaConfig(decay=0.9, warmup=False)
STEPS = 3


def tiny_stack() -> nn.Module:
    seed_weights()
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


def drift(model: nn.Module, step: int) -> None:
    """Replace an update: every weight moves by a number of its own, pieces as their whole."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            change = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                mesh, placements = parameter.device_mesh, parameter.placements
                change = distribute_tensor(change, mesh, placements, src_data_rank=None)
            parameter.add_(change)


def average_in_pieces() -> Results:
    """The average of a model whose weights are cut into pieces, put together again."""
    model = tiny_stack()
    fully_shard(model, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    ema = Ema(model, PLAIN)
    for step in range(1, STEPS + 1):
        drift(model, step)
        ema.update(step)
    averages = ema.tensors()
    assert all(isinstance(tensor, DTensor) for tensor in averages.values())
    return {name: t.full_tensor() for name, t in averages.items() if isinstance(t, DTensor)}
