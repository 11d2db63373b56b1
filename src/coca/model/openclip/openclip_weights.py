"""Convert state dicts of OpenCLIP's CoCa to this package and back, with bitwise round trips."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from coca.core.errors import ModelError
from coca.model.openclip.openclip_config import OPEN_CLIP_CONFIG, OpenCLIPConfig

State: TypeAlias = Mapping[str, Tensor]

_BLOCK = {
    "ln_1": "attention_norm",
    "attn.in_proj_": "attention.qkv.",
    "attn.out_proj": "attention.out",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
_CROSS_BLOCK = {
    "ln_1": "cross_norm",
    "ln_1_kv": "image_norm",
    "attn.out_proj": "cross_attention.out",
    "ln_2": "cross_mlp_norm",
    "mlp.c_fc": "cross_mlp.up",
    "mlp.c_proj": "cross_mlp.down",
}
_MODULES = {
    "visual.ln_pre": "image_encoder.norm",
    "visual.attn_pool.ln_q": "pooler.query_norm",
    "visual.attn_pool.ln_k": "pooler.image_norm",
    "visual.attn_pool.attn.out_proj": "pooler.attention.out",
    "visual.ln_post": "pooler.norm",
    "text.ln_final": "unimodal_decoder.norm",
    "text_decoder.ln_final": "multimodal_decoder.norm",
}
_TENSORS = {
    "logit_scale": "log_scale",
    "visual.class_embedding": "image_encoder.class_token",
    "visual.positional_embedding": "image_encoder.positions",
    "visual.attn_pool.query": "pooler.queries",
    "text.cls_emb": "unimodal_decoder.class_token",
    "text.positional_embedding": "unimodal_decoder.positions",
    "text.token_embedding.weight": "unimodal_decoder.token_embedding.weight",
}
_TRANSPOSED = {
    "visual.proj": "image_projection.weight",
    "text.text_projection": "text_projection.weight",
    "text_decoder.text_projection": "vocabulary.weight",
}
# Attention masks stored by some versions; they follow from the configuration.
_DROPPED = re.compile(r"(^|\.)attn_mask$")


@dataclass(frozen=True)
class _TensorMapping:
    """Tensors of OpenCLIP and of this package with the same elements.

    Both are concatenated along the first axis and equal after the change of `layout`. The parts are
    the relative sizes of the tensors along that axis.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    their_parts: tuple[int, ...] = (1,)
    our_parts: tuple[int, ...] = (1,)
    layout: Literal["none", "transposed", "patches"] = "none"


def convert_state_dict(state: State, config: OpenCLIPConfig) -> dict[str, Tensor]:
    """Convert a state dict of OpenCLIP to that of `OpenCLIP(config)`."""
    given = {name: tensor for name, tensor in state.items() if not _DROPPED.search(name)}
    mappings = list(_tensor_mappings(config))
    _require_names(given.keys(), {name for mapping in mappings for name in mapping.theirs})
    converted: dict[str, Tensor] = {}
    for mapping in mappings:
        stack = _concatenated([given[name] for name in mapping.theirs])
        if mapping.layout == "transposed":
            stack = stack.T
        elif mapping.layout == "patches":
            stack = stack.flatten(1)
        elif mapping.ours == ("log_scale",):
            stack = stack.reshape(())  # some versions stored it with shape (1,)
        converted.update(zip(mapping.ours, _split(stack, mapping.our_parts), strict=True))
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def restore_state_dict(state: State, config: OpenCLIPConfig) -> dict[str, Tensor]:
    """Convert the state dict of `OpenCLIP(config)` to that of OpenCLIP."""
    restored: dict[str, Tensor] = {}
    for mapping in _tensor_mappings(config):
        stack = _concatenated([state[name] for name in mapping.ours])
        if mapping.layout == "transposed":
            stack = stack.T
        elif mapping.layout == "patches":
            p = config.image.patch_size
            stack = stack.unflatten(1, (config.image.channels, p, p))
        restored.update(zip(mapping.theirs, _split(stack, mapping.their_parts), strict=True))
    return {name: tensor.contiguous() for name, tensor in restored.items()}


def config_of_weights(state: State) -> OpenCLIPConfig:
    """Return the published configuration that fits weights without one, by their width."""
    embedding = state.get("text.token_embedding.weight")
    for config in OpenCLIPConfig.presets().values():
        if embedding is not None and embedding.shape == (config.text.vocab_size, config.text.width):
            return config
    raise ModelError(
        "these are not weights of a CoCa of OpenCLIP in a published size; for another size put its "
        f"{OPEN_CLIP_CONFIG} next to the weights"
    )


def _tensor_mappings(config: OpenCLIPConfig) -> Iterator[_TensorMapping]:
    for theirs, ours in _TENSORS.items():
        yield _TensorMapping((theirs,), (ours,))
    for theirs, ours in _TRANSPOSED.items():
        yield _TensorMapping((theirs,), (ours,), layout="transposed")
    yield _TensorMapping(
        ("visual.conv1.weight",), ("image_encoder.patch_embedding.weight",), layout="patches"
    )
    for theirs, ours in _MODULES.items():
        yield from _module(theirs, ours)
    yield from _pooler(config)
    text = config.text
    for tower, layers, blocks in (
        ("visual.transformer", config.image.layers, "image_encoder.blocks.{}"),
        ("text.transformer", text.unimodal_layers, "unimodal_decoder.blocks.{}"),
        ("text_decoder", text.multimodal_layers, "multimodal_decoder.layers.{}.block"),
    ):
        for layer in range(layers):
            for theirs, ours in _BLOCK.items():
                yield from _module(
                    f"{tower}.resblocks.{layer}.{theirs}", f"{blocks.format(layer)}.{ours}"
                )
    for layer in range(text.multimodal_layers):
        theirs, ours = f"text_decoder.cross_attn.{layer}", f"multimodal_decoder.layers.{layer}"
        for their_part, our_part in _CROSS_BLOCK.items():
            yield from _module(f"{theirs}.{their_part}", f"{ours}.{our_part}")
        for kind in ("weight", "bias"):
            yield _TensorMapping(
                (f"{theirs}.attn.in_proj_{kind}",),
                tuple(f"{ours}.cross_attention.{part}.{kind}" for part in ("query", "key_value")),
                our_parts=(1, 2),
            )


def _module(theirs: str, ours: str) -> Iterator[_TensorMapping]:
    # `in_proj_` continues without a dot.
    dot = "" if theirs.endswith("_") else "."
    for kind in ("weight", "bias"):
        yield _TensorMapping((f"{theirs}{dot}{kind}",), (f"{ours.removesuffix('.')}.{kind}",))


def _pooler(config: OpenCLIPConfig) -> Iterator[_TensorMapping]:
    attention, ours = "visual.attn_pool.attn", "pooler.attention"
    both = (f"{ours}.query.{{}}", f"{ours}.key_value.{{}}")
    names = {kind: tuple(name.format(kind) for name in both) for kind in ("weight", "bias")}
    yield _TensorMapping((f"{attention}.in_proj_bias",), names["bias"], our_parts=(1, 2))
    if config.image.width == config.embed_dim:
        yield _TensorMapping((f"{attention}.in_proj_weight",), names["weight"], our_parts=(1, 2))
        return
    # Queries and keys of different widths do not fit in one matrix.
    query, key_value = names["weight"]
    yield _TensorMapping((f"{attention}.q_proj_weight",), (query,))
    yield _TensorMapping(
        (f"{attention}.k_proj_weight", f"{attention}.v_proj_weight"), (key_value,), (1, 1)
    )


def _concatenated(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _split(stack: Tensor, parts: tuple[int, ...]) -> tuple[Tensor, ...]:
    if len(parts) == 1:
        return (stack,)
    unit = len(stack) // sum(parts)
    return stack.split([unit * part for part in parts])


def _require_names(given: Set[str], wanted: Set[str]) -> None:
    problems = [
        f"{len(names)} tensors {what} (such as {min(names)})"
        for names, what in ((wanted - given, "missing"), (given - wanted, "unknown"))
        if names
    ]
    if problems:
        raise ModelError(f"these weights do not fit the configuration: {'; '.join(problems)}")
