"""Optimisers by name, and which parameters they let decay.

`adamw` is the everyday choice. `adafactor` is what the paper trained with (section 4.1), in the
form of "Scaling Vision Transformers" (arXiv 2106.04560, section 3.4): factored second moment,
momentum in bf16, no relative step and no scaling by the parameter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.registry import Registry

UNDECAYED_NAMES = ("positions", "queries")
"""Matrices that are learned inputs, not maps: pulling them to zero would erase what they mark."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimiser and its settings; those that it does not know are named in their docstring."""

    name: str = "adamw"
    """A registered optimiser: `adamw`, `adafactor`, or a plugin's."""
    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it. The paper: 8e-4 at 65,536 pairs."""
    weight_decay: float = 0.01
    """Decoupled decay: each update shrinks a weight by `lr * weight_decay` of itself."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Memory of gradient and squared gradient; 0 to 1. `adafactor` reads only the first: its
    second grows with the step up to `beta2_cap`. 0.95 and not 0.999, since large batches spike
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


ParameterGroups: TypeAlias = Sequence[dict[str, Any]]
"""What a torch optimiser takes: each holds `params` and settings of its own."""

OptimizerMaker: TypeAlias = Callable[[ParameterGroups, OptimizerConfig], Optimizer]

OPTIMIZERS: Registry[OptimizerMaker] = Registry("optimizer")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimiser over all trainable parameters, at the peak learning rate.

    Raises:
        ConfigError: No optimiser of that name is registered.
        MissingExtraError: It needs a package that is not installed.
    """
    return OPTIMIZERS.get(config.name)(parameter_groups(model, config.weight_decay), config)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: parameters that decay, and those that do not.

    Biases, gains of norms and the temperature have fewer than two axes and never decay; nor do
    position embeddings and pooling queries (`UNDECAYED_NAMES`). The token embedding does: it is
    a matrix, and with tied embeddings also the vocabulary layer. An empty group is left out.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim < 2 or name.split(".")[-1] in UNDECAYED_NAMES
        (undecayed if exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
        momentum=config.betas[0],
        beta2_cap=config.beta2_cap,
        clipping_threshold=config.clipping_threshold,
        momentum_dtype=config.momentum_dtype,
        # Decay follows the learning rate, as in AdamW, so that one setting serves both.
        unscaled_wd=False,
    )


def _can_fuse(groups: ParameterGroups) -> bool:
    """Whether one kernel may update everything; it exists for these devices only."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "mps")
        for parameter in parameters
    )
