"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685).

The weight of a linear layer becomes W + (alpha / rank) B A, of which only A and B are trained. They
are a torch parametrization of the weight and not a wrapper of the layer's call. Attention here
reads weights directly, and would silently bypass wrappers such as those of peft.

Dimensions: O outputs, I inputs, R rank.
"""

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils import parametrize

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError

logger = logging.getLogger(__name__)

_PLACE = ".parametrizations.weight"
_ORIGINAL = f"{_PLACE}.original"
_SCALE, _UP, _DOWN = (f"{_PLACE}.0.{part}" for part in ("scale", "up", "down"))


class LoraConfig(Config):
    """The layers that get adapters, and their rank, scale and learning rate."""

    rank: PositiveInt = 8
    """Rank of the adapters, at least 1."""
    alpha: PositiveFloat = 16.0
    """Scale of the adapters, above 0: their product is multiplied by alpha / rank."""
    match: tuple[str, ...] = ("image_encoder", "unimodal_decoder", "multimodal_decoder")
    """Linear layers to adapt, by dotted name: `image_encoder`, `*.attention.qkv`. A name includes
    all its submodules; `*` matches any characters, dots included."""
    modules_to_save: tuple[str, ...] = ("*token_embedding", "*vocabulary")
    """Modules to train in full, by name as in `match`, if the model has them. Tokens of a new
    domain are rare in the pretraining captions. Without training their embeddings, a model does
    not learn to generate them. `[]` trains adapters alone, which forgets less. Others stay frozen,
    such as `*_pooler` and the temperature `log_scale`; the log names them."""
    lr: PositiveFloat = 3e-3
    """Peak learning rate of adapters and of `modules_to_save`, above 0. AdamW trains them without
    weight decay, for any `train.optimizer.name`. Models far larger than the shipped one usually
    take 1e-4 to 1e-3."""


class LowRank(nn.Module):
    """Low-rank update of a weight, `scale * up @ down`; zero at initialization."""

    scale: Float[Tensor, ""]

    def __init__(self, weight: Float[Tensor, "O I"], config: LoraConfig) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.register_buffer("scale", weight.new_tensor(config.alpha / config.rank))
        self.down = nn.Parameter(weight.new_empty(config.rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, config.rank))
        nn.init.normal_(self.down, std=inputs**-0.5)

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        return weight + self.scale * (self.up @ self.down)


def add_lora_(model: nn.Module, config: LoraConfig) -> None:
    """Add adapters to linear layers; freeze the rest except the head and `modules_to_save`."""
    layers = {name: it for name, it in model.named_modules() if isinstance(it, nn.Linear)}
    trained = ("head", *config.modules_to_save)
    chosen: set[str] = set()
    for pattern in config.match:
        found = [name for name in layers if _fits(name, pattern)]
        if not found:
            raise ConfigError(f"lora.match {pattern!r} matches no linear layer")
        chosen.update(found)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(_fits(name, part) for part in trained))
    for name in sorted(chosen):
        if not any(_fits(name, part) for part in trained):
            layer = layers[name]
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, config))
    parts = {name.partition(".")[0]: False for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parts[name.partition(".")[0]] |= parameter.requires_grad
    if frozen := [part for part, trains in parts.items() if not trains]:
        logger.info(
            "lora leaves %s frozen; lora.modules_to_save trains them in full", ", ".join(frozen)
        )


@torch.no_grad()
def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge adapters into the weights, for a plain model with the same outputs."""
    plain = {name: tensor for name, tensor in state.items() if _PLACE not in name}
    for name, tensor in state.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            scale, up, down = (state[layer + part] for part in (_SCALE, _UP, _DOWN))
            plain[f"{layer}.weight"] = tensor + scale * (up @ down)
    return plain


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
