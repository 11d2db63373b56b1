"""Tensors cut into pieces over ranks, and written by them."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from coca.core.errors import StorageError
from coca.train.checkpoints.sharded_safetensors import copy_to_cpu, write_shards

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


def pieces() -> dict[str, Tensor]:
    """This rank's pieces of `WHOLE`; a number is whole on each."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    return {
        name: distribute_tensor(tensor, mesh, [PLACEMENTS.get(name, Shard(0))], src_data_rank=None)
        if tensor.ndim
        else tensor
        for name, tensor in WHOLE.items()
    }


def write(folder: Path) -> list[str]:
    groups = copy_to_cpu({"model": pieces(), "ema": {"even": WHOLE["even"]}, "optimizer": {}})
    ranks = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo"))
    return [str(path.relative_to(folder)) for path in write_shards(folder, groups, ranks)]


def write_into_a_file(folder: Path) -> str:
    """Rank 1 finds a file where its folder should be."""
    path = folder / "here" if distributed.get_rank() == 0 else folder / "file"
    ranks = cast(distributed.ProcessGroup, distributed.new_group(backend="gloo"))
    try:
        write_shards(path, {"model": pieces()}, ranks)
    except StorageError as error:
        return str(error)
    return ""
