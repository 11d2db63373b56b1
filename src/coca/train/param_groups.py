"""Which parameters train, how fast, and which of them decay: the groups of an optimiser."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from coca.core.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

UNDECAYED_NAMES = ("positions", "queries")
"""Matrices that are learned inputs, not maps: pulling them to zero would erase what they mark."""

TOWERS = (("image_encoder",), ("unimodal_decoder", "multimodal_decoder"))
"""What layer-wise decay counts as one tower: the upper half of the decoder stands on the lower."""


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Parameters that learn or decay otherwise than the rest."""

    match: str
    """Whose they are, by dotted name: `captioning_pooler`, `image_encoder.blocks.0`, `*.mlp`. A
    name stands for all below it, `*` for any letters, dots included, and `!` in front for all
    others. Where several groups match, the last one counts."""
    lr_scale: float = 1.0
    """Factor on the learning rate, above 0; that of `layer_decay` comes on top."""
    weight_decay: float | None = None
    """In place of the optimiser's own; null keeps that. Biases, norms, positions and queries do
    not decay here either."""

    def __post_init__(self) -> None:
        if not self.lr_scale > 0:
            raise ConfigError(
                f"lr_scale of {self.match!r} must be above 0 (got {self.lr_scale}); `freeze` keeps "
                "parameters as they are"
            )
        if self.weight_decay is not None and self.weight_decay < 0:
            raise ConfigError(
                f"weight_decay of {self.match!r} must be at least 0 (got {self.weight_decay})"
            )


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Keep parameters as they are; patterns are those of `GroupConfig.match`.

    No gradient is computed for them, and a tower that is frozen whole keeps no activations. To lock
    the image tower as LiT does (arXiv 2111.07991), freeze `image_encoder`: the poolers still train.

    Raises:
        ConfigError: A pattern matches nothing, or nothing would be left to train.
    """
    for pattern in patterns:
        for name in _matching(pattern, model):
            model.get_parameter(name).requires_grad_(False)
    sizes = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
    trained, total = sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)
    if not trained:
        raise ConfigError(f"freeze {list(patterns)} names every parameter; none is left to train")
    if patterns:
        logger.info("%s of %s parameters train, the others are frozen", trained, total)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    groups: Sequence[GroupConfig] = (),
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters, one group for each pace and decay; the fastest come first.

    Biases, gains of norms and the temperature have fewer than two axes and never decay; nor do
    position embeddings and pooling queries (`UNDECAYED_NAMES`). The token embedding does: it is
    a matrix, and with tied embeddings also the vocabulary layer.

    Returns:
        Each with `params`, their `names`, `weight_decay` and `lr_scale`, the factor on the
        learning rate.

    Raises:
        ConfigError: A pattern matches no parameter that trains and that no later group takes, or
            `layer_decay` finds no tower.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    chosen: dict[str, GroupConfig] = {}
    for group in groups:
        chosen.update(dict.fromkeys(_matching(group.match, model), group))
    _require_own_parameters(groups, [chosen[name] for name in trained if name in chosen])
    scales = {} if layer_decay is None else layer_scales(model, layer_decay)
    found: dict[tuple[float, float], dict[str, nn.Parameter]] = {}
    for name, parameter in trained.items():
        own = chosen.get(name, GroupConfig(match=name))
        decay = weight_decay if own.weight_decay is None else own.weight_decay
        if parameter.ndim < 2 or name.split(".")[-1] in UNDECAYED_NAMES:
            decay = 0.0
        pace = own.lr_scale * scales.get(name, 1.0)
        found.setdefault((pace, decay), {})[name] = parameter
    return [
        {
            "params": list(found[pace, decay].values()),
            "names": list(found[pace, decay]),
            "weight_decay": decay,
            "lr_scale": pace,
        }
        for pace, decay in sorted(found, reverse=True)
    ]


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Factor on the learning rate of each parameter of a tower: `decay` to the layers above it.

    A tower of n blocks has n + 2 layers, as in BEiT (arXiv 2106.08254): layer 0 is what stands
    before the blocks (embeddings, positions), layers 1 to n are the blocks, n + 1 is the norm
    behind them. So the last block has `decay` once and the embeddings n + 1 times. Both halves of
    the text decoder are one tower; the norm between them, which ends in the text embedding, counts
    as top. What reads the towers (poolers, projections, vocabulary, heads, temperature) is not
    listed: its factor is 1.

    Raises:
        ConfigError: The model has no tower.
    """
    scales: dict[str, float] = {}
    for tower in TOWERS:
        halves = [(name, half) for name, half in model.named_children() if name in tower]
        top = 1 + sum(_count_blocks(half) for _, half in halves)
        below = 0
        for name, half in halves:
            for inner, _ in half.named_parameters():
                scales[f"{name}.{inner}"] = decay ** (top - _layer(half, inner, below, top))
            below += _count_blocks(half)
    if not scales:
        raise ConfigError(
            f"layer_decay needs a tower such as {TOWERS[0][0]}; {type(model).__name__} has none"
        )
    return scales


def _count_blocks(half: nn.Module) -> int:
    return sum(len(part) for part in half.children() if isinstance(part, nn.ModuleList))


def _layer(half: nn.Module, name: str, below: int, top: int) -> int:
    """The layer of one of a half's parameters, where `below` blocks lie under that half."""
    part, _, rest = name.partition(".")
    layer = 0
    for child, module in half.named_children():
        is_blocks = isinstance(module, nn.ModuleList)
        if child == part:
            return below + 1 + int(rest.partition(".")[0]) if is_blocks else layer
        layer = top if is_blocks else layer
    return 0  # a parameter of the half itself, such as its positions


def _matching(pattern: str, model: nn.Module) -> list[str]:
    """The names of the parameters that a pattern stands for."""
    names = [name for name, _ in model.named_parameters()]
    if pattern.startswith("!"):
        meant = {*_matching(pattern[1:], model)}
        return [name for name in names if name not in meant]
    found = [
        name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    ]
    if not found:
        near = did_you_mean(pattern, {part for name in names for part in _parts(name)})
        if near.startswith("known"):
            near = did_you_mean(pattern, {name.partition(".")[0] for name in names})
        raise ConfigError(f"no parameter is called {pattern!r}; {near}")
    return found


def _parts(name: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    words = name.split(".")
    for count in range(1, len(words) + 1):
        yield ".".join(words[:count])


def _require_own_parameters(groups: Sequence[GroupConfig], used: Sequence[GroupConfig]) -> None:
    for group in groups:
        if not any(group is it for it in used):
            raise ConfigError(
                f"the group {group.match!r} has no parameter to itself: each is frozen, or a "
                "later group takes it"
            )
