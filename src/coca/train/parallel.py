"""A model shared out over ranks, from outside: whole on each (DDP), or in pieces (FSDP2).

The model is written for one process and stays so. Whatever uses its parameters runs inside of one
forward pass of a wrapper, `ParallelModel.run`; that is when DDP watches them, and when FSDP2 has
them whole.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from coca.core.errors import ConfigError
from coca.model.layers.transformer import Block, CrossBlock
from coca.model.openclip.model import OpenCLIPDecoderLayer
from coca.train.distributed_context import DistributedContext

Kind: TypeAlias = Literal["auto", "none", "ddp", "fsdp"]

ModelT = TypeVar("ModelT", bound=nn.Module)
T = TypeVar("T")


class ParallelModel(Generic[ModelT]):
    """A model, and how the ranks of this world share its work.

    Losses of ranks are averaged: `backward` on each leaves the gradient of their mean everywhere.
    """

    def __init__(
        self, model: ModelT, kind: Kind, *, device: torch.device, bf16: bool = False
    ) -> None:
        """Move the model to its device and share it out; an optimiser is to be made afterwards.

        Args:
            model: Changed in place. It must be the same on every rank.
            kind: `auto` is `ddp` where there are several ranks.
            device: Of this rank.
            bf16: Send the weights of blocks in bf16 (`fsdp` on accelerators only), as autocast
                reads them anyway.

        Raises:
            ConfigError: The kind does not fit the number of processes.
        """
        self.model = model
        self.device = device
        self.world = DistributedContext.current()
        kind = _resolved(kind, self.world)
        self._module: nn.Module = _Inside(model)
        self._rest: list[nn.Parameter] = []
        if kind == "fsdp":
            mesh = init_device_mesh(device.type, (self.world.size,))
            # On the CPU autocast leaves norms alone, and they refuse half weights beside fp32.
            self._rest = _shard(self._module, mesh, bf16=bf16 and device.type != "cpu")
        model.to(device)
        if kind == "ddp":
            # Parameters that no loss reaches are allowed. More than that, without this setting DDP
            # rearranges its buckets after the first step, and sums would come out in another
            # order, so not the same to the bit, after each restart.
            self._module.unused = nn.Parameter(torch.zeros((), device=device))
            self._module = DistributedDataParallel(self._module, find_unused_parameters=True)

    def run(self, function: Callable[[ModelT], T]) -> T:
        """What a function of the model gives: tensors, or tuples and dicts of them."""
        return cast(T, self._module(function))

    @contextmanager
    def sync(self, last: bool) -> Iterator[None]:
        """Within, a forward and backward pass adds to the gradients of this rank.

        Only behind the `last` one of a step are they those of all ranks. FSDP2 exchanges them
        behind each: to keep them whole until then would take the room that it saves.
        """
        module = self._module
        alone = isinstance(module, DistributedDataParallel) and not last
        with cast(DistributedDataParallel, module).no_sync() if alone else nullcontext():
            yield
        for parameter in self._rest if last else ():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad.div_(self.world.size)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """This rank's part of each gradient that there is, with its parameter's name."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                yield name, _local(parameter.grad)

    def gradient_norm(self) -> Tensor:
        """Length of the whole gradient, the same on every rank."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        shards = [g.to_local() for g in gradients if isinstance(g, DTensor)]
        norm = nn.utils.get_total_norm([g for g in gradients if not isinstance(g, DTensor)])
        if not shards:
            return norm
        squares = nn.utils.get_total_norm(shards).square()
        distributed.all_reduce(squares)
        return (squares + norm.square()).sqrt()

    def clip_(self, norm: Tensor, limit: float) -> None:
        """Scale the gradient of length `norm` down to `limit`, if it is longer."""
        parts = [part for _, part in self.gradients()]
        torch._foreach_mul_(parts, torch.clamp(limit / (norm + 1e-6), max=1.0))


class _Inside(nn.Module):
    """Runs any function of a model within one forward pass of a module, which can be wrapped."""

    unused: nn.Parameter
    """Set for DDP, which complains on every rank if all of its parameters are used."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[Any], T]) -> T:
        return function(self.model)


def _resolved(kind: Kind, world: DistributedContext) -> Kind:
    if kind == "auto":
        return "ddp" if world.size > 1 else "none"
    if kind == "none" and world.size > 1:
        raise ConfigError(
            f"parallel is none, but {world.size} processes take part, which would each train a "
            "model of their own; right is ddp, fsdp or auto"
        )
    if kind != "none" and not distributed.is_initialized():
        raise ConfigError(
            f"parallel is {kind}, but this process is on its own; start several by `torchrun "
            "--nproc-per-node N -m coca pretrain ...`, or set parallel to auto"
        )
    return kind


def _shard(module: nn.Module, mesh: DeviceMesh, *, bf16: bool) -> list[nn.Parameter]:
    """Cut each block's parameters into pieces, then all others; returns what cannot be cut."""
    # Inputs are left in fp32: between blocks autocast adds in fp32, too.
    block = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    # Nothing here changes keys or values in place, which is what torch warns about.
    warnings.filterwarnings("ignore", message=".* returned a view tensor")
    # From the inside out: what is sharded once belongs to no group around it.
    for part in reversed(list(module.modules())):
        if isinstance(part, CrossBlock):
            # The keys and values of the image are asked for before the block itself runs.
            fully_shard(part.cross_attention, mesh=mesh, mp_policy=block)
            register_fsdp_forward_method(part.cross_attention, "project")
        if isinstance(part, Block | CrossBlock | OpenCLIPDecoderLayer):
            fully_shard(part, mesh=mesh, mp_policy=block)
        if isinstance(part, OpenCLIPDecoderLayer):
            # Likewise, but its own norm takes part.
            register_fsdp_forward_method(part, "read_image")
    # FSDP2 refuses single numbers, such as the temperature.
    numbers = [parameter for parameter in module.parameters() if parameter.ndim == 0]
    fully_shard(module, mesh=mesh, ignored_params=set(numbers))
    return numbers


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
