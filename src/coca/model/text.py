"""The decoupled text decoder: a unimodal half for the embedding, a multimodal half for captions.

A caption is laid out `[BOS] w1 .. wn [EOS] [CLS] [PAD] ..`. Everything is causal and pads stand
last, so no real token ever sees a pad and plain causal attention is exact without a mask tensor.

Dimensions: B batch, T text tokens, M rows of a packed batch, S image tokens, D text width,
C image width.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.config import TextDecoderConfig
from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.latent_attention import to_autocast_dtype
from coca.model.layers.packing import Packing
from coca.model.layers.transformer import Block, CrossBlock, KeysAndValues


class UnimodalDecoder(nn.Module):
    """The lower layers: causal self-attention over words only."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width)
            for _ in range(config.unimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        caches: Sequence[AttentionState] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "B T D"] | Float[Tensor, "M D"]:
        """Gives the state of each token, before the final norm: what the upper half reads.

        Args:
            tokens: Token ids.
            caches: One cache a layer while generating, else None.
            positions: Place of each of `tokens` in its caption; None: 0, 1, 2 and so on.
            packing: Give the states as its flat rows, which cost less than padded ones.
        """
        end = tokens.shape[1]
        if positions is None and end > self.config.context_length:
            raise ConfigError(
                f"a caption of {end} tokens is longer than context_length "
                f"{self.config.context_length}; truncate it or raise text.context_length"
            )
        if packing is None:
            places = self.positions[:end] if positions is None else self.positions[positions]
            states = self.token_embedding(tokens) + places
        else:
            tokens = tokens[packing.captions, packing.places]
            states = self.token_embedding(tokens) + F.embedding(packing.places, self.positions)
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            states = block(states, causal=True, cache=cache, packing=packing)
        return states

    def embedding(
        self, states: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B D"]:
        """Gives the normed state at each caption's [CLS], which sees all of its words."""
        place = (tokens == self.config.cls_id).int().argmax(dim=1)
        return self.norm(states[packing.offsets + place])


class MultimodalDecoder(nn.Module):
    """The upper layers: they go on from the unimodal states and also read the image."""

    def __init__(self, config: TextDecoderConfig, image_width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            CrossBlock(config.width, image_width, config.heads, config.mlp_width)
            for _ in range(config.multimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def read_image(self, image_tokens: Float[Tensor, "B S C"]) -> list[KeysAndValues]:
        """Gives each layer's keys and values of the image; do it once for a whole caption."""
        blocks = cast(Iterable[CrossBlock], self.blocks)
        return [block.cross_attention.project(image_tokens) for block in blocks]

    def forward(
        self,
        states: Float[Tensor, "*B T D"],
        image: Sequence[KeysAndValues] | Float[Tensor, "B S C"],
        *,
        caches: Sequence[AttentionState] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B T D"]:
        """Gives the normed state of each token, ready for the vocabulary layer.

        Args:
            states: What the lower half gave; with `packing` its flat rows.
            image: Keys and values of each layer; with `packing` the image tokens, in its order.
            caches: One cache a layer while generating, else None.
            packing: How flat rows make up captions.
        """
        if isinstance(image, Tensor):
            image = to_autocast_dtype(image)
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            seen = image if isinstance(image, Tensor) else image[layer]
            states = block(states, seen, cache=cache, packing=packing)
        return self.norm(states)
