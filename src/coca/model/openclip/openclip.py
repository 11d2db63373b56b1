"""The CoCa architecture of OpenCLIP, for its published weights, with the outputs of `CoCa`.

It differs from the paper in several ways. The image encoder has a class token, and its norm comes
first and not last. One pooler serves both losses: its first query gives the embedding, the others
give the decoder's image tokens. The class token of a caption is a weight with the last position and
its own attention mask (`class_mask`). A decoder layer has two MLPs.

Source: open_clip_torch 3.3.0, with which the tests compare values and gradients.

Dimensions: B batch, T text tokens, M rows of a packed batch, P patches, Q queries, D width,
C image width, E embedding, V vocabulary.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.encoders.encoder import EncodedImages
from coca.model.encoders.vit import PatchEncoder, ViTConfig
from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.latent_attention import to_autocast_dtype
from coca.model.layers.packing import Packing, lengths_to_last
from coca.model.layers.transformer import (
    MLP,
    CrossAttention,
    KeysAndValues,
    Linear,
    TransformerBlock,
    init_linears_,
    scale_residuals_,
    unit,
)
from coca.model.openclip.openclip_config import OpenCLIPConfig, OpenCLIPTextConfig

EMBEDDING, CAPTIONING = slice(0, 1), slice(1, None)
"""Slices of the pooler's queries: the first for the embedding, the others for the decoder."""
EXTRA_POSITIONS = 3
"""Positions after the longest caption that a packing may use."""


class OpenCLIPImageEncoder(PatchEncoder):
    """A Vision Transformer with a class token; the pooler attends to all tokens."""

    extra_tokens = 1

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        patch = config.channels * config.patch_size**2
        self.patch_embedding = Linear(patch, config.width, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Parameter(torch.empty(config.tokens + 1, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width, key_bias=True)
            for _ in range(config.layers)
        )

    def features(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B P D"]:
        size = self.config.image_size
        if images.shape[2:] != (size, size):
            height, width = images.shape[2:]
            raise ConfigError(
                f"an image of {height} x {width} pixels does not fit: this model reads "
                f"{size} x {size}"
            )
        patches, positions = self._patches(images)
        embedded = self.patch_embedding(patches) + positions
        first = (self.class_token + self.positions[0]).expand(images.shape[0], 1, -1)
        tokens = self.norm(torch.cat([first, embedded], dim=1))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class OpenCLIPPooler(nn.Module):
    """Attentional pooler with one query for the embedding and the others for the decoder."""

    def __init__(self, config: OpenCLIPConfig) -> None:
        super().__init__()
        image_width, width = config.image.width, config.embed_dim
        self.queries = nn.Parameter(torch.empty(config.pooler_queries, width))
        self.query_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(image_width)
        self.attention = CrossAttention(width, image_width, config.pooler_heads, key_bias=True)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "B P C"], *, wanted: slice = slice(None)
    ) -> Float[Tensor, "B Q D"]:
        """Pool the image tokens with the `wanted` queries only."""
        queries = self.query_norm(self.queries[wanted])
        context = self.attention.project(self.image_norm(tokens))
        return self.norm(self.attention.forward_shared(queries, context))


class OpenCLIPUnimodalDecoder(nn.Module):
    """The lower layers of the text decoder: text tokens, then the class token."""

    def __init__(self, config: OpenCLIPConfig) -> None:
        super().__init__()
        text = config.text
        self.config = text
        self.legacy = config.class_mask == "legacy"
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.class_token = nn.Parameter(torch.empty(text.width))
        # The class token has the last position for captions of any length.
        self.positions = nn.Parameter(torch.empty(text.context_length + 1, text.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(text.width, text.heads, text.mlp_width, key_bias=True)
            for _ in range(text.unimodal_layers)
        )
        self.norm = nn.LayerNorm(text.width)

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
                f"{self.config.context_length}; truncate it"
            )
        mask = None
        if packing is not None:
            states = self._rows(tokens, packing)
        else:
            embedded = self.positions[:end] if positions is None else self.positions[positions]
            states = self.token_embedding(tokens) + embedded
            if caches is None:
                mask = _causal(self._visible(tokens)[:, : tokens.shape[1]])
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            states = block(states, causal=True, cache=cache, packing=packing, mask=mask)
        return states

    def pack(self, tokens: Int[Tensor, "B T"], *, padded: bool = False) -> Packing:
        """Pack captions: the tokens of each, then `extra_rows` rows for the class token.

        With `padded`, no row of padding is left out.
        """
        if padded:
            batch, length = tokens.shape
            packing = Packing.padded(batch, length + self.extra_rows, tokens.device)
        else:
            packing = Packing.of(self._ends(tokens) + self.extra_rows)
        visible = self._visible(tokens)[packing.captions, packing.positions]
        return replace(packing, masks=tuple(_causal(part) for part in packing.split(visible)))

    @property
    def extra_rows(self) -> int:
        """Rows after a caption's tokens: the class token and, if legacy, one pad it attends to."""
        return 2 if self.legacy else 1

    @property
    def unlabeled_rows(self) -> int:
        """Rows at the end of each caption without a label: [EOS] and the extra rows."""
        return 1 + self.extra_rows

    def embedding(
        self, states: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B D"]:
        """Return the normalized state of each caption's class token."""
        return self.norm(states[self._class_rows(tokens, packing)])

    def _ends(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
        """Count the tokens of each caption; at least 2, so that one row has a label."""
        return lengths_to_last(tokens != self.config.pad_id).clamp(min=2)

    def _class_rows(self, tokens: Int[Tensor, "B T"], packing: Packing) -> Int[Tensor, " B"]:
        ends = self._ends(tokens)
        # A caption that fills the context has no pad.
        behind_pad = self.legacy & (ends < self.config.context_length)
        return packing.offsets + ends + behind_pad.int()

    def _rows(self, tokens: Int[Tensor, "B T"], packing: Packing) -> Float[Tensor, "M D"]:
        padded = F.pad(tokens, (0, EXTRA_POSITIONS), value=self.config.pad_id)
        embedded = self.token_embedding(padded[packing.captions, packing.positions])
        last = self.config.context_length
        rows = embedded + F.embedding(packing.positions.clamp(max=last), self.positions)
        class_token = (self.class_token + self.positions[last]).to(rows.dtype)
        return rows.index_copy(
            0, self._class_rows(tokens, packing), class_token.expand(tokens.shape[0], -1)
        )

    def _visible(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B positions"]:
        """Mark the positions that later positions may attend to; the first is always visible.

        `legacy` is off by one: a position is visible if the position before it is not a pad.
        """
        visible = (
            F.pad(tokens, (0, EXTRA_POSITIONS), value=self.config.pad_id) != self.config.pad_id
        )
        if self.legacy:
            visible = F.pad(visible[:, :-1], (1, 0))
        else:
            visible = visible.scatter(1, self._ends(tokens)[:, None], True)
        visible[:, 0] = True
        return visible


class OpenCLIPDecoderLayer(nn.Module):
    """A self-attention block, then a cross-attention block to the image; each has an MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.block = TransformerBlock(width, heads, mlp_width, key_bias=True)
        self.cross_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, width, heads, key_bias=True)
        self.cross_mlp_norm = nn.LayerNorm(width)
        self.cross_mlp = MLP(width, mlp_width)

    def read_image(self, image_tokens: Float[Tensor, "B Q D"]) -> KeysAndValues:
        """Project the image tokens to keys and values."""
        return self.cross_attention.project(self.image_norm(image_tokens))

    def forward(
        self,
        tokens: Float[Tensor, "*B T D"],
        image: KeysAndValues | Float[Tensor, "B Q D"],
        *,
        cache: AttentionState | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B T D"]:
        """Apply a `TransformerBlock` and `CrossAttention`; raw image tokens are normalized."""
        tokens = self.block(tokens, causal=True, cache=cache, packing=packing)
        tokens = tokens + self.cross_attention(
            self.cross_norm(tokens), image, packing=packing, norm=self.image_norm
        )
        return tokens + self.cross_mlp(self.cross_mlp_norm(tokens))


class OpenCLIPMultimodalDecoder(nn.Module):
    """The upper layers of the text decoder: self-attention, and cross-attention to the image."""

    def __init__(self, config: OpenCLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            OpenCLIPDecoderLayer(config.width, config.heads, config.mlp_width)
            for _ in range(config.multimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def read_image(self, image_tokens: Float[Tensor, "B Q D"]) -> list[KeysAndValues]:
        """Project the image tokens to each layer's keys and values; once per caption."""
        layers = cast(Iterable[OpenCLIPDecoderLayer], self.layers)
        return [layer.read_image(image_tokens) for layer in layers]

    def forward(
        self,
        states: Float[Tensor, "*B T D"],
        image: Sequence[KeysAndValues] | Float[Tensor, "B Q D"],
        *,
        caches: Sequence[AttentionState] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B T D"]:
        """Compute the normalized state of each token; see `MultimodalDecoder.forward`."""
        if isinstance(image, Tensor):
            # All layers normalize the image alike, except for gain and shift.
            image = to_autocast_dtype(F.layer_norm(image, image.shape[2:]))
        for index, layer in enumerate(self.layers):
            cache = caches[index] if caches else None
            context = image if isinstance(image, Tensor) else image[index]
            states = layer(states, context, cache=cache, packing=packing)
        return self.norm(states)


class OpenCLIP(CoCa):
    """OpenCLIP's CoCa, for captions `[BOS] w1 .. wn [EOS] [PAD] ..`; padding has no effect."""

    config: OpenCLIPConfig  # type: ignore[assignment]
    image_encoder: OpenCLIPImageEncoder
    unimodal_decoder: OpenCLIPUnimodalDecoder  # type: ignore[assignment]
    multimodal_decoder: OpenCLIPMultimodalDecoder  # type: ignore[assignment]

    def __init__(self, config: OpenCLIPConfig) -> None:
        # All modules differ from those of the paper.
        nn.Module.__init__(self)
        text = config.text
        self.config = config
        self.image_encoder = OpenCLIPImageEncoder(config.image)
        self.pooler = OpenCLIPPooler(config)
        self.unimodal_decoder = OpenCLIPUnimodalDecoder(config)
        self.multimodal_decoder = OpenCLIPMultimodalDecoder(text)
        self.vocabulary = Linear(text.width, text.vocab_size, bias=False)
        self.image_projection = Linear(config.embed_dim, config.embed_dim, bias=False)
        self.text_projection = Linear(text.width, config.embed_dim, bias=False)
        self.log_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = None
        self.head: nn.Module | None = None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize every weight, as `CoCa.init_weights` does."""
        if self.log_scale.is_meta:
            return
        init_linears_(self)
        text = self.config.text
        text_layers = text.unimodal_layers + text.multimodal_layers
        scale_residuals_(self.image_encoder, self.config.image.layers)
        scale_residuals_(self.unimodal_decoder, text_layers)
        scale_residuals_(self.multimodal_decoder, text_layers)
        for tower in (self.image_encoder, self.unimodal_decoder):
            for learned in (tower.positions, tower.class_token):
                nn.init.normal_(learned, std=learned.shape[-1] ** -0.5)
        embedding = self.unimodal_decoder.token_embedding.weight
        nn.init.normal_(embedding, std=embedding.shape[1] ** -0.5)
        nn.init.normal_(self.pooler.queries)
        self.log_scale.fill_(-math.log(self.config.initial_temperature))

    def pool(self, encoded: EncodedImages) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B Q D"]]:
        """Compute `pool_embedding` and `pool_tokens` together, in one pass of the pooler."""
        pooled = self.pooler(encoded.tokens)
        return unit(self.image_projection(pooled[:, 0])), pooled[:, CAPTIONING]

    def pool_tokens(self, encoded: EncodedImages) -> Float[Tensor, "B Q D"]:
        """Pool encoded images to the tokens that the decoder reads."""
        return self.pooler(encoded.tokens, wanted=CAPTIONING)

    def pool_embedding(self, encoded: EncodedImages) -> Float[Tensor, "B E"]:
        """Pool encoded images to unit-length embeddings."""
        pooled = self.pooler(encoded.tokens, wanted=EMBEDDING)
        return unit(self.image_projection(pooled[:, 0]))

    def label_mask(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Mark the positions whose next token is a captioning label."""
        return F.pad(tokens[:, 1:] != self.config.text.pad_id, (0, 1))


def _causal(visible: Bool[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Build the attention mask: visible positions up to the own position."""
    length = visible.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    return (visible[:, None, :] & earlier)[:, None]
