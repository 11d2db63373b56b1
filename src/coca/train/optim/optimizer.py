"""Optimizers by name: AdamW, Adafactor and Muon.

`adamw` is the default. `adafactor` is the optimizer of the paper (section 4.1), in the variant of
"Scaling Vision Transformers" (arXiv 2106.04560, section 3.4): factored second moment, momentum in
bf16, no relative step and no parameter scaling. `muon` orthogonalizes the update of each matrix;
small runs learn several times as much from a pair.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from coca.core.config.frozen_config import Config
from coca.core.extras import require
from coca.core.registry import Registry
from coca.model.lora import LoraConfig
from coca.train.optim.param_groups import UNDECAYED_NAMES, GroupConfig, parameter_groups

logger = logging.getLogger(__name__)

TABLES = {"token_embedding", "vocabulary", "positional_embedding", "position_embedding"}
"""Matrices with one row per token or position: independent rows, and no map between layers."""

MUON_MOMENTUM = 0.95
"""Momentum of the gradient before orthogonalization; the value of Muon's author."""

DecayRate: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of an exponential moving average of gradients."""

MIN_FACTORED_SIZE = 32
"""Minimum size of both axes of a matrix for a factored second moment in Adafactor: the value of the
scaling-ViT code; timm has 16, optax 128. For a tensor with more axes, its two longest count. All
other tensors have one second moment per element, as in Adam."""


class OptimizerConfig(Config):
    """Optimizer and hyperparameters; those of one optimizer only are marked."""

    name: str = "adamw"
    """A registered optimizer: `adamw`, `adafactor`, `muon`, or a plugin's."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate; the schedule multiplies it. The paper: 8e-4 at 65,536 pairs."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay: each update shrinks a weight by `lr * weight_decay` of itself."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.95)
    """Decay rates of the moments of the gradient; 0 to 1. `adafactor` uses only the first: its
    second grows with the step up to `beta2_cap`. `muon` uses both for parameters that are not
    matrices of layers. 0.95 and not 0.999 avoids loss spikes with large batches (SigLIP, section
    4.7)."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment, against division by zero; `adamw` only."""
    beta2_cap: DecayRate = 0.999
    """Maximum decay rate of the second moment; 0 to 1; `adafactor` only."""
    clipping_threshold: PositiveFloat | None = 1.0
    """Maximum root mean square of one tensor's update before momentum; `adafactor` only. null: no
    clipping, as in the paper's variant; 1.0 is the safer default for short runs."""
    momentum_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of the momentum; `adafactor` only."""
    freeze: tuple[str, ...] = ()
    """Frozen parameters, by name as in `groups`: `[image_encoder]` freezes the image tower with all
    its norms, and the poolers still train."""
    groups: tuple[GroupConfig, ...] = ()
    """Parameter groups with their own learning rate or weight decay."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Layer-wise learning rate decay: factor from each layer of a tower to the layer below, above 0
    and at most 1. Embeddings have the lowest rate; modules after the towers keep the full rate.
    null: the same rate everywhere."""

    @model_validator(mode="after")
    def _check_rules(self) -> "OptimizerConfig":
        OPTIMIZERS.get(self.name)
        return self


def for_adapters(config: OptimizerConfig, lora: LoraConfig, *, head: bool) -> OptimizerConfig:
    """Adapt the optimizer config to a run with low-rank adapters: AdamW with the adapters' rate.

    Muon orthogonalizes the update of each matrix, which is a large step in all directions of a
    factor of rank 8. A learning rate for full matrices is too low for adapters.
    """
    if config.name != "adamw":
        logger.info("lora is trained by adamw with lr %g, not by %s", lora.lr, config.name)
    adapters = GroupConfig(
        match="!head" if head else "*", lr_scale=lora.lr / config.lr, weight_decay=0.0
    )
    return config.replace(name="adamw", groups=(adapters, *config.groups))


ParameterGroups: TypeAlias = Sequence[dict[str, Any]]
"""Argument of a torch optimizer: each group has `params` and its own settings."""

OptimizerMaker: TypeAlias = Callable[[ParameterGroups, OptimizerConfig], Optimizer]

OPTIMIZERS: Registry[OptimizerMaker] = Registry("optimizer", "optimizers")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Create the optimizer over all trainable parameters; apply `freeze` of `config` before.

    Each group has an `lr_scale`, by which its scheduled learning rate is multiplied.
    """
    groups = parameter_groups(
        model, config.weight_decay, groups=config.groups, layer_decay=config.layer_decay
    )
    for group in groups:
        group["lr"] = config.lr * group["lr_scale"]
    return OPTIMIZERS.get(config.name)(groups, config)


def update_if_finite(optimizer: Any, number: Tensor) -> None:
    """Update the weights if a number on their device is finite, else change nothing.

    The protocol of torch's `GradScaler`: a fused AdamW decides on the device. For other optimizers
    the host waits for the number.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = (~number.isfinite()).float()
        optimizer.step()
    elif bool(number.isfinite()):
        optimizer.step()


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
        # Decay is scaled by the learning rate, as in AdamW, so that one setting serves both.
        # Unscaled, 0.01 would remove a hundredth of each weight at each of the 500,000 steps.
        unscaled_wd=False,
    )


@OPTIMIZERS.register("muon")
def _muon(groups: ParameterGroups, config: OptimizerConfig) -> Optimizer:
    """Create Muon (Jordan 2024) for the matrices of layers, with NAdamW for the rest.

    Updates are scaled to the size of AdamW's (arXiv 2502.16982). So learning rate and decay suit
    both, and a recipe changes its optimizer by name alone.
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
    return parameter.ndim == 2 and (UNDECAYED_NAMES | TABLES).isdisjoint(name.split("."))


def _can_fuse(groups: ParameterGroups) -> bool:
    """Whether the fused kernel supports all parameters and devices."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "mps")
        for parameter in parameters
    )
