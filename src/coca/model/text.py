"""The decoupled text decoder: a unimodal half for the embedding, a multimodal half for captions.

A caption is laid out `[BOS] w1 .. wn [EOS] [CLS] [PAD] ..`. Everything is causal and pads stand
last, so no real token ever sees a pad and plain causal attention is exact without a mask tensor.

Letters: B batch, T text tokens, S image tokens, D text width, C image width.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coca.core.errors import ConfigError
from coca.model.config import TextDecoderConfig
from coca.model.layers import Block, CrossBlock, KeysAndValues, KeyValueCache


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
        caches: Sequence[KeyValueCache] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "B T D"]:
        """Gives the state of each token, before the final norm: what the upper half reads.

        Args:
            tokens: Token ids.
            caches: One cache a layer while generating, else None.
            start: Position of the first of `tokens` in its caption.
        """
        end = start + tokens.shape[1]
        if end > self.config.context_length:
            raise ConfigError(
                f"a caption of {end} tokens is longer than context_length "
                f"{self.config.context_length}; truncate it or raise text.context_length"
            )
        states = self.token_embedding(tokens) + self.positions[start:end]
        for layer, block in enumerate(self.blocks):
            states = block(states, causal=True, cache=caches[layer] if caches else None)
        return states

    def embedding(
        self, states: Float[Tensor, "B T D"], tokens: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B D"]:
        """Gives the normed state at each caption's [CLS], which sees all of its words."""
        position = (tokens == self.config.cls_id).int().argmax(dim=1)
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.norm(states[rows, position])


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
        states: Float[Tensor, "B T D"],
        image: Sequence[KeysAndValues],
        *,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Gives the normed state of each token, ready for the vocabulary layer."""
        for layer, block in enumerate(self.blocks):
            states = block(states, image[layer], cache=caches[layer] if caches else None)
        return self.norm(states)
