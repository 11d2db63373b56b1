"""Optimisers by name.

`adamw` is the everyday choice. `adafactor` is what the paper trained with (section 4.1), in the
form of "Scaling Vision Transformers" (arXiv 2106.04560, section 3.4): factored second moment,
momentum in bf16, no relative step and no scaling by the parameter. `muon` turns the update of each
matrix into the nearest orthogonal one; small runs learn several times as much from a pair.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.registry import Registry
from coca.model.lora import LoraConfig
from coca.train.param_groups import UNDECAYED_NAMES, GroupConfig, parameter_groups

logger = logging.getLogger(__name__)

TABLES = ("token_embedding", "vocabulary")
"""Matrices with a row for each word: rows of their own, and no map between layers."""

MUON_MOMENTUM = 0.95
"""Memory of the gradient before it is made orthogonal; its authors' value."""

MIN_FACTORED_SIZE = 32
"""Adafactor factors the second moment of a matrix if both sides are at least this long, in
entries: the value of the scaling-ViT code, where timm has 16 and optax 128. Of a tensor with more
axes its two longest count. Everything else keeps one number an entry, as Adam does."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimiser and its settings; those that it does not know are named in their docstring."""

    name: str = "adamw"
    """A registered optimiser: `adamw`, `adafactor`, `muon`, or a plugin's."""
    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it. The paper: 8e-4 at 65,536 pairs."""
    weight_decay: float = 0.01
    """Decoupled decay: each update shrinks a weight by `lr * weight_decay` of itself."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Memory of gradient and squared gradient; 0 to 1. `adafactor` reads only the first: its
    second grows with the step up to `beta2_cap`; `muon` uses both for what is
    no matrix of a layer. 0.95 and not 0.999, since large batches spike
    otherwise (SigLIP, section 4.7)."""
    eps: float = 1e-8
    """Added to the root of the squared gradient, against division by zero; `adamw` only."""
    beta2_cap: float = 0.999
    """Longest memory of the squared gradient; 0 to 1; `adafactor` only."""
    clipping_threshold: float | None = 1.0
    """Largest root mean square of one tensor's update before momentum; `adafactor` only. None
    leaves updates alone, as the paper's form does; 1.0 is the safer default for short runs."""
    momentum_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """How the momentum is stored; `adafactor` only."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by name as in `groups`: `[image_encoder]` locks the image
    tower with all its norms, and the poolers still train."""
    groups: tuple[GroupConfig, ...] = ()
    """Parameters with a learning rate or decay of their own."""
    layer_decay: float | None = None
    """Factor on the learning rate from each layer of a tower to the one below, above 0 and at most
    1; embeddings are slowest, what reads the towers keeps the full rate. null: all alike."""

    def __post_init__(self) -> None:
        for name in ("lr", "eps"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0 (got {getattr(self, name)})")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay must be at least 0 (got {self.weight_decay})")
        for name, value in (
            *(("betas", beta) for beta in self.betas),
            ("beta2_cap", self.beta2_cap),
        ):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1 (got {value})")
        if self.clipping_threshold is not None and self.clipping_threshold <= 0:
            raise ConfigError(
                f"clipping_threshold must be above 0, or null for none "
                f"(got {self.clipping_threshold})"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"layer_decay must be above 0 and at most 1, or null for none "
                f"(got {self.layer_decay})"
            )


def for_adapters(config: OptimizerConfig, lora: LoraConfig, *, head: bool) -> OptimizerConfig:
    """The optimiser of a run with low-rank adapters: AdamW, at the adapters' own learning rate.

    Muon makes the update of each matrix orthogonal, which for a factor of rank 8 is a large step in
    every direction that it has; and a rate that suits full matrices is too low for adapters.

    Args:
        config: The run's own; its `lr` stays that of a head.
        lora: The adapters.
        head: Whether the model has a head, which learns whole.
    """
    if config.name != "adamw":
        logger.info("lora is trained by adamw at %g, not by %s", lora.lr, config.name)
    adapters = GroupConfig(
        match="!head" if head else "*", lr_scale=lora.lr / config.lr, weight_decay=0.0
    )
    return replace(config, name="adamw", groups=(adapters, *config.groups))


ParameterGroups: TypeAlias = Sequence[dict[str, Any]]
"""What a torch optimiser takes: each holds `params` and settings of its own."""

OptimizerMaker: TypeAlias = Callable[[ParameterGroups, OptimizerConfig], Optimizer]

OPTIMIZERS: Registry[OptimizerMaker] = Registry("optimizer")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimiser over all trainable parameters; what `config` freezes must be frozen by then.

    Each group has an `lr_scale`: whoever sets its `lr` multiplies by that.

    Raises:
        ConfigError: No optimiser of that name is registered, or a group names nothing.
        MissingExtraError: It needs a package that is not installed.
    """
    groups = parameter_groups(
        model, config.weight_decay, groups=config.groups, layer_decay=config.layer_decay
    )
    for group in groups:
        group["lr"] = config.lr * group["lr_scale"]
    return OPTIMIZERS.get(config.name)(groups, config)


@OPTIMIZERS.register("adamw")
def _adamw(groups: ParameterGroups, config: OptimizerConfig) -> Optimizer:
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=_can_fuse(groups)
    )


@OPTIMIZERS.register("adafactor")
def _adafactor(groups: ParameterGroups, config: OptimizerConfig) -> Optimizer:
    adafactor = require("timm.optim.adafactor_bv", extra="train").AdafactorBigVision
    return adafactor(
        groups,
        lr=config.lr,
        min_dim_size_to_factor=MIN_FACTORED_SIZE,
        momentum=config.betas[0],
        beta2_cap=config.beta2_cap,
        clipping_threshold=config.clipping_threshold,
        momentum_dtype=config.momentum_dtype,
        # Decay follows the learning rate, as in AdamW, so that one setting serves both. Were it
        # not to, the paper's 0.01 would take a hundredth of each weight at each of 500,000 steps.
        unscaled_wd=False,
    )


@OPTIMIZERS.register("muon")
def _muon(groups: ParameterGroups, config: OptimizerConfig) -> Optimizer:
    """Muon (Jordan 2024) for the matrices of layers, NAdamW for all else.

    Updates are scaled to the size of AdamW's (arXiv 2502.16982), so one learning rate and decay
    serve both, and a recipe changes its optimiser by name alone.
    """
    muon = require("timm.optim.muon", extra="train").Muon
    parts = []
    for group in groups:
        settings = {key: value for key, value in group.items() if key not in ("params", "names")}
        named = list(zip(group["names"], group["params"], strict=True))
        for is_map in (True, False):
            members = [p for name, p in named if _is_map(name, p) == is_map]
            if members:
                parts.append({**settings, "params": members, "use_fallback": not is_map})
    return muon(
        parts,
        lr=config.lr,
        momentum=MUON_MOMENTUM,
        nesterov=True,
        betas=config.betas,
        ns_coefficients="original",
        adjust_lr_fn="match_rms_adamw",
    )


def _is_map(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix between layers."""
    parts = name.split(".")
    return parameter.ndim == 2 and parts[-1] not in UNDECAYED_NAMES and not set(parts) & set(TABLES)


def _can_fuse(groups: ParameterGroups) -> bool:
    """Whether one kernel may update everything; it exists for these devices only."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "mps")
        for parameter in parameters
    )
