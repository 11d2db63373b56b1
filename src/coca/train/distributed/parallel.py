"""Data parallelism for any model: replicated (DDP), sharded (FSDP2), or both (HSDP).

The model code is written for one process. All uses of its parameters run in one forward pass of a
wrapper, `ParallelModel.run`. During it, DDP tracks the parameters, and FSDP2 has gathered them.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.model.layers.transformer import CrossBlock, TransformerBlock
from coca.model.losses.collectives import local_shard
from coca.model.openclip.openclip import OpenCLIPDecoderLayer
from coca.train.blocks import prepare_blocks_
from coca.train.distributed.context import DistributedContext

Kind: TypeAlias = Literal["auto", "none", "ddp", "fsdp"]

MIN_GROUP = 1_000_000
"""Parameters from which an element of a sequence of modules, such as a block of a timm model, is
gathered on its own; smaller ones are gathered with what is around them."""

ModelT = TypeVar("ModelT", bound=nn.Module)
T = TypeVar("T")


class FsdpConfig(Config):
    """Settings of `parallel: fsdp`."""

    replicas: PositiveInt = 1
    """Number of copies of the model, each sharded over (ranks / replicas) consecutive ranks (HSDP).
    With one copy per node, weights are gathered inside nodes, and only gradients cross them."""
    reshard_after_forward: bool = True
    """Free the gathered weights of a block after its forward pass, and gather them again for the
    backward pass. false: gather them once per step, and keep them until its last micro-batch."""


class GradientNorms(NamedTuple):
    """Norms of the gradient, on the device."""

    total: Tensor
    """Norm over all parameters and ranks, equal on every rank."""
    shards: dict[str, Tensor]
    """Norm of this rank's shard of each gradient, by parameter name."""


class ParallelModel(Generic[ModelT]):
    """A model that is trained by all ranks of a run.

    Gradients are averaged: after `backward` on all ranks, each has the gradient of the mean loss.
    """

    def __init__(
        self,
        model: ModelT,
        kind: Kind,
        *,
        device: torch.device,
        bf16: bool = False,
        compiled: bool = False,
        recompute_every: int | None = None,
        fsdp: FsdpConfig | None = None,
    ) -> None:
        """Move the model to its device and wrap it; create the optimizer afterwards.

        A model on the meta device gets memory, but no values.
        """
        self.model = model
        self.device = device
        self.world = DistributedContext.current()
        self._fsdp = fsdp or FsdpConfig()
        kind = resolve_kind(kind, self._fsdp, self.world)
        self.is_compiled = compiled
        prepare_blocks_(model, compiled=compiled, recompute_every=recompute_every)
        self._module: nn.Module = _FunctionRunner(model)
        self._unsharded: list[nn.Parameter] = []
        if kind == "fsdp":
            self._mesh = _mesh(device, self.world, self._fsdp)
            # On the CPU, autocast does not cover norms, and they reject bf16 weights with fp32
            # inputs.
            bf16 = bf16 and device.type != "cpu"
            reshard = self._fsdp.reshard_after_forward
            _shard(self._module, self._mesh, bf16=bf16, reshard_after_forward=reshard)
        if any(parameter.is_meta for parameter in model.parameters()):
            model.to_empty(device=device)
        model.to(device)
        if kind == "fsdp":
            self._unsharded = _scalars(model)
        if kind == "ddp":
            # Parameters without gradient are allowed. Also, without this setting DDP rebuilds its
            # buckets after the first step. Sums would have another order after each restart, and
            # would not be equal to the bit: a third of the gradients differ on 4 ranks. The
            # setting adds about 0.4 % to the processor time of a step, estimated on narrow layers;
            # steps of whole models differ more from run to run. The host waits for the device only
            # in steps in which a parameter has no gradient.
            warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
            self._module = DistributedDataParallel(self._module, find_unused_parameters=True)

    def run(self, function: Callable[[ModelT], T]) -> T:
        """Run a function of the model in one forward pass; it returns tensors, tuples or dicts."""
        return cast(T, self._module(function))

    def evaluate(self, function: Callable[[ModelT], T]) -> T:
        """Run a function of the model as `run` does, in evaluation mode and without gradient.

        DDP's exchange of buffers is left out, so that those of no rank change.
        """
        self.model.eval()
        # Each other batch size would be compiled.
        with torch.compiler.set_stance("force_eager") if self.is_compiled else nullcontext():
            if isinstance(self._module, DistributedDataParallel):
                return function(self.model)
            result = self.run(function)
        if isinstance(self._module, FSDPModule):
            # Without a backward pass, its outermost parameters would stay gathered.
            self._module.reshard()
        return result

    @contextmanager
    def sync(self, last: bool) -> Iterator[None]:
        """Accumulate gradients within the context, and reduce them over ranks if `last`.

        Gradients equal those of all ranks only after the `last` pass of a step. Until then, FSDP2
        keeps them unsharded in fp32: 4 bytes per parameter, in place of a collective per pass.
        """
        module = self._module
        alone = isinstance(module, DistributedDataParallel) and not last
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(last)
            if not self._fsdp.reshard_after_forward:
                module.set_reshard_after_backward(last)
        with cast(DistributedDataParallel, module).no_sync() if alone else nullcontext():
            yield
        for parameter in self._unsharded if last else ():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad.div_(self.world.size)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Yield this rank's shard of each gradient, with the parameter name."""
        for name, parameter in self.model.named_parameters():
            if (whole := parameter.grad) is not None:
                yield name, local_shard(whole)

    def gradient_norms(self) -> GradientNorms:
        """Compute the norm of each gradient and of all of them."""
        shards = dict(self.gradients())
        norms = dict(zip(shards, torch._foreach_norm([*shards.values()]), strict=True))
        sharded = {n for n, p in self.model.named_parameters() if isinstance(p.grad, DTensor)}
        total = _length([norm for name, norm in norms.items() if name not in sharded], self.device)
        if sharded:
            squares = _length([norms[name] for name in norms if name in sharded], self.device) ** 2
            # Not over the copies of a shard.
            distributed.all_reduce(squares, group=self._mesh.get_group("shard"))
            total = (squares + total.square()).sqrt()
        return GradientNorms(total, norms)

    def clip_(self, norm: Tensor, limit: float) -> None:
        """Clip the gradient of norm `norm` to the norm `limit`."""
        parts = [part for _, part in self.gradients()]
        torch._foreach_mul_(parts, torch.clamp(limit / (norm + 1e-6), max=1.0))


def _length(norms: list[Tensor], device: torch.device) -> Tensor:
    """Compute the norm of a vector from the norms of its parts."""
    return torch.linalg.vector_norm(torch.stack(norms or [torch.zeros((), device=device)]))


class _FunctionRunner(nn.Module):
    """Runs any function of a model in the forward pass of a module, which can be wrapped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[Any], T]) -> T:
        return function(self.model)


def resolve_kind(kind: Kind, fsdp: FsdpConfig, world: DistributedContext) -> Kind:
    """Choose the parallelism of `auto`, and raise if the number of ranks does not fit."""
    if kind == "auto":
        return "ddp" if world.size > 1 else "none"
    if kind == "none" and world.size > 1:
        raise ConfigError(
            f"parallel is none, but {world.size} processes take part, which would each train a "
            "separate model; set parallel to ddp, fsdp or auto"
        )
    if kind != "none" and not distributed.is_initialized():
        raise ConfigError(
            f"parallel is {kind}, but there is only one process; start several by `torchrun "
            "--nproc-per-node N -m coca pretrain ...`, or set parallel to auto"
        )
    if kind == "fsdp" and world.size % fsdp.replicas:
        raise ConfigError(
            f"train.fsdp.replicas is {fsdp.replicas}, which does not divide the {world.size} "
            "ranks; set it to the number of nodes, or to 1"
        )
    return kind


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    """Return the scalar parameters, such as the temperature, which FSDP2 does not support."""
    return [parameter for parameter in module.parameters() if parameter.ndim == 0]


def _mesh(device: torch.device, world: DistributedContext, config: FsdpConfig) -> DeviceMesh:
    """Arrange the ranks by copy of the model and shard; one copy has no such dimension."""
    replicas = config.replicas
    shards = world.size // replicas
    if replicas == 1:
        return init_device_mesh(device.type, (shards,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (replicas, shards), mesh_dim_names=("replicate", "shard"))


def _shard(module: nn.Module, mesh: DeviceMesh, *, bf16: bool, reshard_after_forward: bool) -> None:
    """Shard each block, then all other parameters but scalars.

    Blocks of other libraries are recognized by their size, see `MIN_GROUP`.
    """
    # Inputs stay in fp32: autocast also adds residuals in fp32.
    plain = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    block = replace(plain, param_dtype=torch.bfloat16 if bf16 else None)
    # torch warns about in-place changes of views; keys and values are not changed in place.
    warnings.filterwarnings("ignore", message=".* returned a view tensor")
    shard = partial(fully_shard, mesh=mesh, reshard_after_forward=reshard_after_forward)
    # Inner modules first: sharded parameters do not belong to the group of an outer module.
    for part in reversed(list(module.modules())):
        if isinstance(part, CrossBlock):
            # The keys and values of the image are computed before the block itself runs.
            shard(part.cross_attention, mp_policy=block)
            register_fsdp_forward_method(part.cross_attention, "project")
        if isinstance(part, TransformerBlock | CrossBlock | OpenCLIPDecoderLayer):
            shard(part, mp_policy=block)
        if isinstance(part, OpenCLIPDecoderLayer):
            # Likewise, with the layer's own norm.
            register_fsdp_forward_method(part, "read_image")
        if isinstance(part, nn.Sequential | nn.ModuleList):
            for element in part:
                whole = [it for it in element.parameters() if not isinstance(it, DTensor)]
                if sum(it.numel() for it in whole) < MIN_GROUP:
                    continue
                if isinstance(element, nn.ModuleList | nn.ModuleDict):
                    continue  # It has no forward pass.
                # Batch norms need weights in the type of their statistics, fp32.
                normed = any(isinstance(it, _NormBase) for it in element.modules())
                shard(element, mp_policy=plain if normed else block)
    fully_shard(module, mesh=mesh, ignored_params=set(_scalars(module)))
