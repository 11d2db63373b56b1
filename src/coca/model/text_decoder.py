"""The text decoder of CoCa: a unimodal half, a multimodal half, and the states that they compute.

Source: arXiv 2205.01917, section 3.2. The unimodal half gives the text embedding. The multimodal
half continues from its states and cross-attends to the image.

A caption is `[BOS] w1 .. wn [EOS] [CLS] [PAD] ..`. Attention is causal and padding comes last. So
no real token attends to padding, and causal attention is exact without a mask tensor. The captions
of a batch are packed (`coca.model.layers.packing`), so little is computed for padding.

Dimensions: B batch, T text tokens, M rows of packed captions, S image tokens, D width, C image
width, W states with a label.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.coca_config import TextDecoderConfig
from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.latent_attention import to_autocast_dtype
from coca.model.layers.packing import Packing, to_device
from coca.model.layers.transformer import CrossBlock, KeysAndValues, TransformerBlock


class UnimodalDecoder(nn.Module):
    """The lower layers of the text decoder: causal self-attention over text tokens only."""

    unlabeled_rows = 2
    """Rows at the end of each caption without a label: [EOS] and [CLS]."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width)
            for _ in range(config.unimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def pack(self, tokens: Int[Tensor, "B T"], *, padded: bool = False) -> Packing:
        """Pack captions into length buckets, or with `padded` into one bucket with all rows."""
        if padded:
            captions, length = tokens.shape
            return Packing.padded(captions, length, tokens.device)
        return Packing.of((tokens != self.config.pad_id).sum(dim=1))

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        caches: Sequence[AttentionState] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "B T D"] | Float[Tensor, "M D"]:
        """Compute the hidden state of each token before the final norm.

        The multimodal decoder takes these states.
        """
        end = tokens.shape[1]
        if positions is None and end > self.config.context_length:
            raise ConfigError(
                f"a caption of {end} tokens is longer than context_length "
                f"{self.config.context_length}; truncate it or raise text.context_length"
            )
        if packing is None:
            embedded = self.positions[:end] if positions is None else self.positions[positions]
            states = self.token_embedding(tokens) + embedded
        else:
            tokens = tokens[packing.captions, packing.positions]
            states = self.token_embedding(tokens) + F.embedding(packing.positions, self.positions)
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            states = block(states, causal=True, cache=cache, packing=packing)
        return states

    def embedding(
        self, states: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B D"]:
        """Return the normalized state at each caption's [CLS], which attends to all its tokens."""
        position = (tokens == self.config.cls_id).int().argmax(dim=1)
        return self.norm(states[packing.offsets + position])


class MultimodalDecoder(nn.Module):
    """The upper layers of the text decoder: self-attention, and cross-attention to the image."""

    def __init__(self, config: TextDecoderConfig, image_width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            CrossBlock(config.width, image_width, config.heads, config.mlp_width)
            for _ in range(config.multimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def read_image(self, image_tokens: Float[Tensor, "B S C"]) -> list[KeysAndValues]:
        """Project the image tokens to each layer's keys and values; once per caption."""
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
        """Compute the normalized state of each token, the input of the vocabulary layer."""
        if isinstance(image, Tensor):
            image = to_autocast_dtype(image)
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            context = image if isinstance(image, Tensor) else image[layer]
            states = block(states, context, cache=cache, packing=packing)
        return self.norm(states)


class Decoded(NamedTuple):
    """Captions after the multimodal decoder, without the rows that have no label."""

    states: Float[Tensor, "M D"]
    """State of each packed row."""
    packing: Packing
    """Rows of the captions, planned where the tokens are."""
    tokens: Int[Tensor, "B T"]
    """The captions."""
    real: Bool[Tensor, "B T"]
    """Positions with a label, as `label_mask` marks them."""

    def labelled(
        self, is_captioned: Bool[Tensor, " B"] | None = None
    ) -> tuple[Float[Tensor, "W D"], Int[Tensor, " W"]]:
        """Select the states that predict a token, caption by caption, and these tokens.

        The vocabulary layer maps each state to the logits of its token: w1 .. wn and [EOS].
        `is_captioned` selects captions; None: all.
        """
        real = self.real if is_captioned is None else self.real & is_captioned[:, None]
        rows, targets = self.packing.rows(real), self.tokens[:, 1:][real[:, :-1]]
        device = self.states.device
        return self.states[to_device(rows, device)], to_device(targets, device)
