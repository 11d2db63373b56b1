"""The CoCa of OpenCLIP, exactly: what its published weights need, behind the interface of `CoCa`.

It differs from the paper in many small ways. The image encoder has a class token, and a norm in
front instead of behind. One pooler serves both losses: its first query gives the embedding, the
others are what the decoder reads. A caption's class token is a weight that stands behind the last
position, with a peculiar view of the caption (`class_mask`). A decoder layer has two MLPs.

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
from coca.model.captioner import Captioner, Poolings
from coca.model.config import ImageEncoderConfig
from coca.model.heads import AttentivePoolingHead
from coca.model.layers.init import draw_linears_, shrink_residuals_
from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.latent_attention import to_autocast_dtype
from coca.model.layers.packing import Packing, last_places
from coca.model.layers.prepacked_linear import Linear
from coca.model.layers.transformer import MLP, Block, CrossAttention, KeysAndValues
from coca.model.openclip.config import OpenCLIPConfig, OpenCLIPTextConfig
from coca.model.pooling import Pooling
from coca.model.vision import PatchEncoder

EMBEDDING, READ = slice(0, 1), slice(1, None)
"""The pooler's queries: the first for the embedding, the others for the decoder."""
ROOM = 3
"""Places behind the longest caption that a plan of rows may touch."""


class OpenCLIPImageEncoder(PatchEncoder):
    """A Vision Transformer with a class token; every token is read by the pooler."""

    extra_tokens = 1

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__(config)
        patch = config.channels * config.patch_size**2
        self.patch_embedding = Linear(patch, config.width, bias=False)
        self.class_token = nn.Parameter(torch.empty(config.width))
        self.positions = nn.Parameter(torch.empty(config.tokens + 1, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_width, key_bias=True)
            for _ in range(config.layers)
        )

    def forward(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B P D"]:
        size = self.config.image_size
        if images.shape[2:] != (size, size):
            height, width = images.shape[2:]
            raise ConfigError(
                f"an image of {height} x {width} pixels does not fit: this model reads "
                f"{size} x {size}"
            )
        patches, positions = self._patches(images)
        embedded = self.patch_embedding(patches) + positions
        first = (self.class_token + self.positions[0]).expand(len(images), 1, -1)
        tokens = self.norm(torch.cat([first, embedded], dim=1))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class OpenCLIPPooler(nn.Module):
    """Learned queries that read the image; the first one gives the embedding."""

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
        """Gives what the wanted queries have read; the others are not computed."""
        return self.decompose(wanted).pool(tokens)

    def decompose(self, wanted: slice) -> Pooling:
        """Gives its parts, with the wanted queries."""
        queries = self.query_norm(self.queries[wanted])
        return Pooling(queries, self.attention, self.norm, self.image_norm)


class OpenCLIPUnimodalDecoder(nn.Module):
    """The lower half: words only, then the class token that gives the embedding."""

    def __init__(self, config: OpenCLIPConfig) -> None:
        super().__init__()
        text = config.text
        self.config = text
        self.legacy = config.class_mask == "legacy"
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.class_token = nn.Parameter(torch.empty(text.width))
        # The class token has the last position, however short its caption is.
        self.positions = nn.Parameter(torch.empty(text.context_length + 1, text.width))
        self.blocks = nn.ModuleList(
            Block(text.width, text.heads, text.mlp_width, key_bias=True)
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
        """Gives the state of each token, before the final norm: what the upper half reads.

        Args:
            tokens: Token ids.
            caches: One cache a layer while generating, else None. An id 0 within the caption is
                then seen like any other, as by the versions of OpenCLIP that trained the weights.
            positions: Place of each of `tokens` in its caption; None: 0, 1, 2 and so on.
            packing: From `pack`: give its flat rows, the class token among them.
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
            places = self.positions[:end] if positions is None else self.positions[positions]
            states = self.token_embedding(tokens) + places
            if caches is None:
                mask = _causal(self._visible(tokens)[:, : tokens.shape[1]])
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches else None
            states = block(states, causal=True, cache=cache, packing=packing, mask=mask)
        return states

    def pack(self, tokens: Int[Tensor, "B T"]) -> Packing:
        """Plans the rows of each caption: its words, then `extra_rows` for the class token."""
        packing = Packing.of(self._ends(tokens) + self.extra_rows)
        visible = self._visible(tokens)[packing.captions, packing.places]
        return replace(packing, masks=tuple(_causal(part) for part in packing.split(visible)))

    @property
    def extra_rows(self) -> int:
        """Rows behind a caption's last word: the class token, and the one pad that it sees."""
        return 2 if self.legacy else 1

    def embedding(
        self, states: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B D"]:
        """Gives the normed state of each caption's class token."""
        return self.norm(states[self._class_rows(tokens, packing)])

    def _ends(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
        """Tokens of each caption; 2 at least, so that a row is left to predict from."""
        return last_places(tokens != self.config.pad_id).clamp(min=2)

    def _class_rows(self, tokens: Int[Tensor, "B T"], packing: Packing) -> Int[Tensor, " B"]:
        ends = self._ends(tokens)
        # A caption that fills the context has no pad.
        behind_pad = self.legacy & (ends < self.config.context_length)
        return packing.offsets + ends + behind_pad.int()

    def _rows(self, tokens: Int[Tensor, "B T"], packing: Packing) -> Float[Tensor, "M D"]:
        padded = F.pad(tokens, (0, ROOM), value=self.config.pad_id)
        words = self.token_embedding(padded[packing.captions, packing.places])
        last = self.config.context_length
        rows = words + F.embedding(packing.places.clamp(max=last), self.positions)
        class_token = (self.class_token + self.positions[last]).to(rows.dtype)
        return rows.index_copy(
            0, self._class_rows(tokens, packing), class_token.expand(len(tokens), -1)
        )

    def _visible(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B room"]:
        """Says for each place whether those behind it may see it; the first one always is.

        `legacy` is off by one: a place is seen if the one before it holds no pad.
        """
        words = F.pad(tokens, (0, ROOM), value=self.config.pad_id) != self.config.pad_id
        if self.legacy:
            words = F.pad(words[:, :-1], (1, 0))
        else:
            words = words.scatter(1, self._ends(tokens)[:, None], True)
        words[:, 0] = True
        return words


class OpenCLIPDecoderLayer(nn.Module):
    """A block that reads text, then one that reads the image; each has an MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.block = Block(width, heads, mlp_width, key_bias=True)
        self.cross_norm = nn.LayerNorm(width)
        self.image_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, width, heads, key_bias=True)
        self.cross_mlp_norm = nn.LayerNorm(width)
        self.cross_mlp = MLP(width, mlp_width)

    def read_image(self, image_tokens: Float[Tensor, "B Q D"]) -> KeysAndValues:
        """Gives the keys and values of the image."""
        return self.cross_attention.project(self.image_norm(image_tokens))

    def forward(
        self,
        tokens: Float[Tensor, "*B T D"],
        image: KeysAndValues | Float[Tensor, "B Q D"],
        *,
        cache: AttentionState | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B T D"]:
        """Arguments as of `Block` and `CrossAttention`; an image to be read raw is normalised."""
        tokens = self.block(tokens, causal=True, cache=cache, packing=packing)
        tokens = tokens + self.cross_attention(
            self.cross_norm(tokens), image, packing=packing, norm=self.image_norm
        )
        return tokens + self.cross_mlp(self.cross_mlp_norm(tokens))


class OpenCLIPMultimodalDecoder(nn.Module):
    """The upper half: it goes on from the words' raw states and also reads the image."""

    def __init__(self, config: OpenCLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            OpenCLIPDecoderLayer(config.width, config.heads, config.mlp_width)
            for _ in range(config.multimodal_layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def read_image(self, image_tokens: Float[Tensor, "B Q D"]) -> list[KeysAndValues]:
        """Gives each layer's keys and values of the image; do it once for a whole caption."""
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
        """Gives the normed state of each token; arguments as of `MultimodalDecoder.forward`."""
        if isinstance(image, Tensor):
            # Each layer norms the image; that is the same for all of them but for gain and shift.
            image = to_autocast_dtype(F.layer_norm(image, image.shape[2:]))
        for place, layer in enumerate(self.layers):
            cache = caches[place] if caches else None
            seen = image if isinstance(image, Tensor) else image[place]
            states = layer(states, seen, cache=cache, packing=packing)
        return self.norm(states)


class OpenCLIP(Captioner):
    """OpenCLIP's CoCa, for captions `[BOS] w1 .. wn [EOS] [PAD] ..`; pads change nothing."""

    config: OpenCLIPConfig
    image_encoder: OpenCLIPImageEncoder
    unimodal_decoder: OpenCLIPUnimodalDecoder
    multimodal_decoder: OpenCLIPMultimodalDecoder

    def __init__(self, config: OpenCLIPConfig) -> None:
        super().__init__()
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
        self.init_weights()
        self.head = (
            None
            if config.head is None
            else AttentivePoolingHead(
                config.head, image_width=config.image.width, word_width=text.width
            )
        )

    def label_mask(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        return F.pad(tokens[:, 1:] != self.config.text.pad_id, (0, 1))

    @property
    def poolings(self) -> Poolings:
        last, read = (self.pooler.decompose(wanted) for wanted in (EMBEDDING, READ))
        return Poolings((read,), (last,), self.image_projection)

    @property
    def vocabulary_weight(self) -> Float[Tensor, "V D"]:
        return self.vocabulary.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """Sets every weight, as `CoCa.init_weights` does."""
        if self.log_scale.is_meta:
            return
        draw_linears_(self)
        text = self.config.text
        text_layers = text.unimodal_layers + text.multimodal_layers
        shrink_residuals_(self.image_encoder, self.config.image.layers)
        shrink_residuals_(self.unimodal_decoder, text_layers)
        shrink_residuals_(self.multimodal_decoder, text_layers)
        for tower in (self.image_encoder, self.unimodal_decoder):
            for learned in (tower.positions, tower.class_token):
                nn.init.normal_(learned, std=learned.shape[-1] ** -0.5)
        embedding = self.unimodal_decoder.token_embedding.weight
        nn.init.normal_(embedding, std=embedding.shape[1] ** -0.5)
        nn.init.normal_(self.pooler.queries)
        self.log_scale.fill_(-math.log(self.config.initial_temperature))

    def _pool(
        self, encoded: Float[Tensor, "B P C"], *, embedding: bool, reading: bool
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "B Q D"] | None]:
        if not (embedding or reading):
            return None, None
        wanted = slice(None) if embedding and reading else EMBEDDING if embedding else READ
        pooled = self.pooler(encoded, wanted=wanted)
        first = pooled[:, 0] if embedding else None
        read = pooled[:, READ] if embedding and reading else pooled
        return first, read if reading else None

    def _packing(self, tokens: Int[Tensor, "B T"]) -> Packing:
        return self.unimodal_decoder.pack(tokens)

    @property
    def _idle_rows(self) -> int:
        return 1 + self.unimodal_decoder.extra_rows  # [EOS] and the rows for the class


def _causal(visible: Bool[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """What each place may see: visible ones that are not behind it."""
    length = visible.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    return (visible[:, None, :] & earlier)[:, None]
