"""Blocks of a model in training: regional compilation, and recomputation of activations.

A block is a layer that a tower repeats. torch compiles its code once for all blocks of a shape, and
not the whole model (as torchtitan does): captions have other lengths in each step, so attention to
packed rows runs uncompiled, between compiled parts. Parameters keep their names.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils.checkpoint import checkpoint

from coca.core.errors import CocaError, ConfigError
from coca.model.encoders.encoder import eval_frozen_
from coca.model.layers.transformer import CrossAttention, SelfAttention

logger = logging.getLogger(__name__)

COMPILED_SHAPES = 64
"""Maximum number of compiled forms of a block: image sizes, batch sizes and kinds of towers. More
are an error: torch would run them uncompiled, and a resumed run might differ."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the innermost repeated layers with trained weights, in the order of the model.

    A repeated layer is an element of a sequence of modules of one class that have modules inside.
    """
    found: dict[nn.Module, None] = {}
    for part in model.modules():
        if not isinstance(part, nn.Sequential | nn.ModuleList):
            continue
        kinds = {type(element) for element in part}
        is_layer = all(next(element.children(), None) is not None for element in part)
        if len(kinds) == 1 and is_layer and not kinds & {nn.Sequential, nn.ModuleList}:
            found |= dict.fromkeys(part)
    return [
        block
        for block in found
        if not any(inner in found for inner in block.modules() if inner is not block)
        and any(parameter.requires_grad for parameter in block.parameters())
    ]


def prepare_blocks_(model: nn.Module, *, compiled: bool, recompute_every: int | None) -> None:
    """Compile the blocks of a model, and recompute the activations of some in the backward pass."""
    blocks = blocks_of(model) if compiled or recompute_every else []
    if not blocks and (compiled or recompute_every):
        setting = "compile is true" if compiled else f"recompute_every is {recompute_every}"
        raise ConfigError(
            f"train.{setting}, but {type(model).__name__} has no trained blocks, which are layers "
            "of one class in a sequence; leave the setting out"
        )
    recomputed = [
        block
        for block in blocks
        if not any(isinstance(part, _NormBase) for part in block.modules())
    ][:: recompute_every or 1]
    if recompute_every and not recomputed:
        raise ConfigError(
            f"train.recompute_every is {recompute_every}, but all blocks of {type(model).__name__} "
            "have batch norms, which would count each batch twice; leave the setting out"
        )
    for block in blocks:
        # Not `block.compile()`, which would compile FSDP's hooks as well.
        if compiled:
            block.forward = _compiled(block)
        if recompute_every and block in recomputed:
            block.forward = _recomputed(block.forward)


def batch_norms(model: nn.Module) -> list[str]:
    """Name the batch norms that compute statistics of a batch, so those in training mode."""
    modules = model.named_modules()
    return [name for name, part in modules if isinstance(part, _BatchNorm) and part.training]


def set_training_mode(model: nn.Module, *, ranks: int = 1) -> None:
    """Set training mode, except for frozen layers; warn of batch norms on several ranks."""
    model.train()
    eval_frozen_(model)
    if ranks > 1 and (norms := batch_norms(model)):
        logger.warning(
            "%s and %s more batch norms are trained: each of %s ranks computes their statistics of "
            "its own part of a batch, so results differ from those of one process; "
            "train.optimizer.freeze keeps the statistics",
            norms[0],
            len(norms) - 1,
            ranks,
        )


def _compiled(block: nn.Module) -> Callable[..., Any]:
    for part in block.modules():
        if isinstance(part, SelfAttention | CrossAttention):
            part.mix_packed = torch.compiler.disable(part.mix_packed)  # type: ignore[method-assign]
    # Never torch's default, which makes sizes dynamic once they have changed: the arithmetic of a
    # step would depend on the steps before it, and that of a resumed run would differ.
    fixed, ragged = (torch.compile(block.forward, dynamic=dynamic) for dynamic in (False, True))

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (fixed if kwargs.get("packing") is None else ragged)(*args, **kwargs)

    return forward


def _recomputed(function: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        return checkpoint(function, *args, use_reentrant=False, **kwargs)

    return forward


@contextmanager
def compilation() -> Iterator[None]:
    """Set torch's compiler for a pass of compiled blocks, and report its errors in one sentence."""
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    # DDP's own splitting of graphs is for whole models.
    settings = config.patch(
        optimize_ddp=False, recompile_limit=COMPILED_SHAPES, fail_on_recompile_limit_hit=True
    )
    try:
        with settings:
            yield
    except TorchDynamoException as error:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [""]
        named = re.search(r"ImportError: (/\S+\.so): ", lines[0])
        if named and (unfinished := Path(named[1])).is_relative_to(cache_dir()):
            # torch does not write it under another name first, and would load it at each start.
            unfinished.unlink(missing_ok=True)
            raise CocaError(
                f"{unfinished} of torch's compiler cache was left unfinished by a process that "
                "was killed; it is removed now, start the run again"
            ) from error
        raise ConfigError(
            f"train.compile is true, but a block cannot be compiled: {lines[0]}; set train.compile "
            "to false"
        ) from error
