"""Parameter groups: frozen parameters, learning rate factors and weight decay."""

import logging
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError, did_you_mean
from coca.model.encoders.encoder import ImageEncoder

logger = logging.getLogger(__name__)

UNDECAYED_NAMES = {
    *("positions", "queries"),
    *("pos_embed", "cls_token", "reg_token", "relative_position_bias_table"),
}
"""Learned inputs without weight decay, which would erase them: of coca and timm. Those of OpenCLIP
and transformers decay, as in these libraries. One of these is a part of the parameter's name."""

TOWERS = (("image_encoder",), ("unimodal_decoder", "multimodal_decoder"))
"""Towers of layer-wise learning rate decay: both halves of the text decoder are one tower."""


class GroupConfig(Config):
    """A parameter group with its own learning rate factor or weight decay."""

    match: str
    """Modules or parameters by dotted name: `captioning_pooler`, `image_encoder.blocks.0`, `*.mlp`.
    A name includes all its submodules. `*` matches any characters, dots included. A leading `!`
    selects all other parameters. If several groups match, the last group takes precedence."""
    lr_scale: PositiveFloat = 1.0
    """Factor on the learning rate, above 0 (`freeze` keeps parameters as they are); multiplied by
    that of `layer_decay`."""
    weight_decay: NonNegativeFloat | None = None
    """Replaces the optimizer's `weight_decay`; null: no change. Biases, norms, positions and
    queries never decay."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze parameters by patterns, as in `GroupConfig.match`.

    No gradients are computed for them, and a fully frozen tower keeps no activations. For locked-
    image tuning (LiT, arXiv 2111.07991), freeze `image_encoder`: the poolers still train.
    """
    for name in frozen_by(model, patterns):
        model.get_parameter(name).requires_grad_(False)
    sizes = [(parameter.requires_grad, parameter.numel()) for parameter in model.parameters()]
    trained, total = sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)
    if not trained:
        raise ConfigError(f"freeze {list(patterns)} names every parameter; none is left to train")
    if patterns:
        logger.info("%s of %s parameters are trained, the others are frozen", trained, total)


def frozen_by(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that `freeze` would freeze."""
    return {name for pattern in patterns for name in _matching(pattern, model)}


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    groups: Sequence[GroupConfig] = (),
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split trainable parameters into groups of equal rate and decay, highest rate first.

    Biases, norm gains and the temperature have fewer than two axes and do not decay; nor do
    position embeddings, pooling queries and class tokens (`UNDECAYED_NAMES`). The token embedding
    decays: it is a matrix, and with tied embeddings also the vocabulary layer.

    Returns:
        Groups with `params`, their `names`, `weight_decay` and `lr_scale`, the factor on the
        learning rate.
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
        if parameter.ndim < 2 or not UNDECAYED_NAMES.isdisjoint(name.split(".")):
            decay = 0.0
        lr_scale = own.lr_scale * scales.get(name, 1.0)
        found.setdefault((lr_scale, decay), {})[name] = parameter
    return [
        {
            "params": list(found[lr_scale, decay].values()),
            "names": list(found[lr_scale, decay]),
            "weight_decay": decay,
            "lr_scale": lr_scale,
        }
        for lr_scale, decay in sorted(found, reverse=True)
    ]


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Compute layer-wise learning rate factors: `decay` to the power of the layers above.

    A tower of n blocks has n + 2 layers, as in BEiT (arXiv 2106.08254). Layer 0 is the input
    (embeddings, positions), layers 1 to n are the blocks, and n + 1 is the final norm. So the last
    block has `decay` once and the embeddings n + 1 times. Both halves of the text decoder are one
    tower; the norm between them, which gives the text embedding, is in the top layer. Modules after
    the towers (poolers, projections, vocabulary, heads, temperature) are not listed: their factor
    is 1.
    """
    scales: dict[str, float] = {}
    for tower in TOWERS:
        halves = [(name, half) for name, half in model.named_children() if name in tower]
        for name, half in halves:
            numbers = _layer_numbers(half)
            top = 1 + max(numbers.values(), default=0)
            scales |= {f"{name}.{it}": decay ** (top - layer) for it, layer in numbers.items()}
        halves = [(name, half) for name, half in halves if not _layer_numbers(half)]
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


def _layer_numbers(half: nn.Module) -> dict[str, int]:
    """Return the layers that an image encoder numbers itself; empty for towers of blocks."""
    return half.layer_numbers() or {} if isinstance(half, ImageEncoder) else {}


def _count_blocks(half: nn.Module) -> int:
    return sum(len(part) for part in half.children() if isinstance(part, nn.ModuleList))


def _layer(half: nn.Module, name: str, below: int, top: int) -> int:
    """Find the layer of a parameter in a half of a tower, which has `below` blocks before it."""
    part, _, rest = name.partition(".")
    layer = 0
    for child, module in half.named_children():
        is_blocks = isinstance(module, nn.ModuleList)
        if child == part:
            return below + 1 + int(rest.partition(".")[0]) if is_blocks else layer
        layer = top if is_blocks else layer
    return 0  # a parameter of the half itself, such as its positions


def _matching(pattern: str, model: nn.Module) -> list[str]:
    """List the names of the parameters that a pattern matches."""
    names = [name for name, _ in model.named_parameters()]
    if pattern.startswith("!"):
        excluded = {*_matching(pattern[1:], model)}
        return [name for name in names if name not in excluded]
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
    """Yield the dotted prefixes `a`, `a.b` and `a.b.c` of `a.b.c`."""
    segments = name.split(".")
    for count in range(1, len(segments) + 1):
        yield ".".join(segments[:count])


def _require_own_parameters(groups: Sequence[GroupConfig], used: Sequence[GroupConfig]) -> None:
    for group in groups:
        if not any(group is it for it in used):
            raise ConfigError(
                f"the group {group.match!r} has no parameter: each is frozen, or matched by a "
                "later group"
            )
