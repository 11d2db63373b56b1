"""Weights that drift as in training, whole or cut into pieces over the ranks."""

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from coca.train.checkpoints.state import distribute_like
from coca.train.optim.ema import Ema, EmaConfig
from tiny_ranks import Results
from tiny_seed import seed_weights

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
            parameter.add_(distribute_like(change, parameter))


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
