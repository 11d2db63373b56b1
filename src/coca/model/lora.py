"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): a model learns by few new numbers.

A linear layer's weight becomes W + (alpha / rank) B A, of which only A and B learn. They stand in
the weight itself (a parametrisation of torch) and not in the layer's call: attention here reads
weights directly, so that adapters around the call, as the package peft puts them, would be passed
by without a word.

Dimensions: O outputs, I inputs, R rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from coca.core.errors import ConfigError

_PLACE = ".parametrizations.weight"
_ORIGINAL, _DOWN, _UP = f"{_PLACE}.original", f"{_PLACE}.0.down", f"{_PLACE}.0.up"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which layers get adapters, and how large."""

    rank: int = 8
    """Rows of each pair of adapters."""
    alpha: float = 16.0
    """What the adapters count, as a multiple of one over the rank."""
    match: tuple[str, ...] = ("image_encoder", "unimodal_decoder", "multimodal_decoder")
    """Whose linear layers, by dotted name: `image_encoder`, `*.attention.qkv`. A name stands for
    all below it, `*` for any letters, dots included."""
    modules_to_save: tuple[str, ...] = ("*token_embedding", "*vocabulary")
    """Parts that learn whole, by name as in `match`, where the model has them. The words of another
    domain are rare in the captions of the first one: without the embeddings of tokens a model does
    not learn to write them. `[]` trains adapters alone, which forgets less."""
    lr: float = 3e-3
    """Peak learning rate of adapters and of `modules_to_save`, which AdamW trains without weight
    decay whatever `train.optimizer.name` is; above 0. Models far larger than the shipped one
    usually take 1e-4 to 1e-3."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or self.lr <= 0:
            raise ConfigError(
                f"rank is {self.rank}, alpha {self.alpha} and lr {self.lr}; right is a rank of 1 "
                "or more, and an alpha and lr above 0"
            )


class LowRank(nn.Module):
    """What is added to a weight; nothing at first."""

    def __init__(self, weight: Float[Tensor, "O I"], config: LoraConfig) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.scale = config.alpha / config.rank
        self.down = nn.Parameter(weight.new_empty(config.rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, config.rank))
        nn.init.normal_(self.down, std=inputs**-0.5)

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        return weight + self.scale * (self.up @ self.down)


def add_lora_(model: nn.Module, config: LoraConfig, *, trained: Sequence[str] = ("head",)) -> None:
    """Puts adapters on a model's linear layers and freezes all else but `modules_to_save`.

    Args:
        model: Changed in place; it computes what it did before.
        config: Which layers, and how large the adapters are.
        trained: Parts that learn whole beside them, where the model has them.

    Raises:
        ConfigError: A pattern names no linear layer.
    """
    layers = {name: it for name, it in model.named_modules() if isinstance(it, nn.Linear)}
    trained = (*trained, *config.modules_to_save)
    chosen: set[str] = set()
    for pattern in config.match:
        found = [name for name in layers if _fits(name, pattern)]
        if not found:
            raise ConfigError(f"lora.match names {pattern!r}, and no linear layer is called so")
        chosen.update(found)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(_fits(name, part) for part in trained))
    for name in sorted(chosen):
        if not any(_fits(name, part) for part in trained):
            layer = layers[name]
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, config))


@torch.no_grad()
def merged(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The weights of a model with adapters as those of a plain one that computes the same."""
    plain = {name: tensor for name, tensor in state.items() if _PLACE not in name}
    scale = config.alpha / config.rank
    for name, tensor in state.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            added = state[layer + _UP] @ state[layer + _DOWN]
            plain[f"{layer}.weight"] = tensor + scale * added
    return plain


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
