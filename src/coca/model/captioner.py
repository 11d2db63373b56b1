"""What every Contrastive Captioner offers, whether the paper's architecture or OpenCLIP's.

Dimensions: B batch, T text tokens, Q image tokens that the decoder reads, D width, C their width,
E shared embedding, M real positions of a batch that predict a word, V vocabulary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ConfigError
from coca.model.config import HeadConfig, ImageEncoderConfig
from coca.model.heads import AttentivePoolingHead
from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.packing import Packing, last_places
from coca.model.layers.transformer import KeysAndValues
from coca.model.pooling import Pooling
from coca.model.vision import PatchEncoder

HOTTEST, COLDEST = 1.0, 0.01
"""Range of the learned temperature; 0.01 is the bound that CLIP set."""


@dataclass(frozen=True)
class CoCaOutput:
    """What one forward pass gives; a part that was not asked for is None."""

    image_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the images."""
    text_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the captions."""
    caption_states: Float[Tensor, "M D"] | None
    """Decoder states at real positions only, row by row; the vocabulary layer turns each into
    logits for the word in `caption_targets`."""
    caption_targets: Int[Tensor, " M"] | None
    """The word that follows each of `caption_states`: w1 .. wn and [EOS] of each caption."""
    class_logits: Float[Tensor, "B classes"] | None
    """Logits of the head, one row a sample."""


@runtime_checkable
class TextConfig(Protocol):
    """What others need to know of a text decoder."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def unimodal_layers(self) -> int: ...
    @property
    def multimodal_layers(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...

    @property
    def max_text_tokens(self) -> int:
        """Words that a caption has room for beside its special tokens."""
        ...

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Special ids that never follow a word, whatever an untrained model believes."""
        ...


@runtime_checkable
class CaptionerConfig(Protocol):
    """The configuration of a captioner, as far as others need it."""

    @property
    def embed_dim(self) -> int: ...
    @property
    def image(self) -> ImageEncoderConfig: ...
    @property
    def text(self) -> TextConfig: ...
    @property
    def head(self) -> HeadConfig | None: ...


class UnimodalHalf(Protocol):
    """The lower half of a text decoder, as generation uses it; see `UnimodalDecoder`."""

    def __call__(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        caches: Sequence[AttentionState] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "B T D"] | Float[Tensor, "M D"]: ...

    def embedding(
        self, states: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B D"]: ...


class MultimodalHalf(Protocol):
    """The upper half of a text decoder, as generation uses it; see `MultimodalDecoder`."""

    def read_image(self, image_tokens: Float[Tensor, "B Q C"]) -> list[KeysAndValues]: ...

    def __call__(
        self,
        states: Float[Tensor, "*B T D"],
        image: Sequence[KeysAndValues] | Float[Tensor, "B Q C"],
        *,
        caches: Sequence[AttentionState] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B T D"]: ...


@dataclass(frozen=True)
class Poolings:
    """Both ways from the encoder's tokens on, step by step."""

    captioning: tuple[Pooling, ...]
    """To the tokens that the decoder reads."""
    contrastive: tuple[Pooling, ...]
    """To the one token that the embedding is a projection of."""
    projection: nn.Module
    """To the embedding, before it is normalised."""


class Captioner(nn.Module, ABC):
    """A model that embeds images and captions, and writes captions.

    A base class and no Protocol: it is an `nn.Module`, and parameters are invisible to the checks
    that a Protocol would make.
    """

    config: CaptionerConfig
    image_encoder: PatchEncoder
    unimodal_decoder: UnimodalHalf
    multimodal_decoder: MultimodalHalf
    image_projection: nn.Module
    text_projection: nn.Module
    head: AttentivePoolingHead | None
    """What names classes, answers or verdicts; None as after pretraining."""
    log_scale: nn.Parameter
    """Logarithm of one over the temperature."""
    logit_bias: nn.Parameter | None
    """Added to the logits of the sigmoid loss; None in a model that was not made for it."""

    def forward(
        self,
        images: Float[Tensor, "*B RGB height width"],
        tokens: Int[Tensor, "B T"] | None = None,
        *,
        contrastive: bool = True,
        captioning: bool = True,
        classification: bool = False,
        prompt_lengths: Int[Tensor, " B"] | None = None,
    ) -> CoCaOutput:
        """Runs each tower at most once, and only if a wanted part needs it.

        Args:
            images: Normalised images; sides in pixels, multiples of the patch size. Where a head
                reads several images a sample, (B, F, C, height, width).
            tokens: Captions in the layout of this architecture; not needed for class logits of a
                head that reads images only.
            contrastive: Give both embeddings.
            captioning: Give the decoder's states and targets.
            classification: Give class logits: of the head, if there is one.
            prompt_lengths: Tokens of each caption, the first one included, that belong to what is
                asked: what a head that reads words sees. None: all.

        Raises:
            ConfigError: Class logits are asked of a model without a head, or the number of
                images does not suit.
        """
        head = self._head(images, contrastive or captioning) if classification else None
        by_words = head is not None and head.config.reads == "words"
        encoded = self.image_encoder(images.flatten(0, -4))
        pooled, image_tokens = self._pool(
            encoded, embedding=contrastive, reading=captioning or by_words
        )
        image_embedding = text_embedding = states = targets = logits = None
        if head is not None and not by_words:
            logits = head(encoded)
        if contrastive or captioning or by_words:
            assert tokens is not None, "these parts read words"
            each = len(encoded) // len(tokens)
            tokens = tokens.repeat_interleave(each, dim=0) if each > 1 else tokens
            packing = self._packing(tokens)
            unimodal = self.unimodal_decoder(tokens, packing=packing)
            if contrastive:
                assert pooled is not None
                image_embedding = self._embed_image(pooled)
                text_embedding = self._embed_text(unimodal, tokens, packing)
            if captioning or by_words:
                assert image_tokens is not None
                decoded, inner = self._decoded(unimodal, image_tokens, packing)
                real = self.label_mask(tokens)
                if by_words:
                    lengths = last_places(real)
                    if prompt_lengths is not None:
                        lengths = prompt_lengths.repeat_interleave(each)
                    assert head is not None
                    asked, is_asked = _padded(decoded, inner, lengths)
                    logits = head(asked, real=is_asked)
                if captioning:
                    states = decoded[inner.rows(real)]
                    targets = tokens[:, 1:][real[:, :-1]]
        return CoCaOutput(
            image_embedding=image_embedding,
            text_embedding=text_embedding,
            caption_states=states,
            caption_targets=targets,
            class_logits=logits,
        )

    def encode_image(self, images: Float[Tensor, "B *F RGB height width"]) -> Float[Tensor, "B E"]:
        """Gives the unit vector of each image, or of each series of F images.

        The poolers read the tokens of a whole series side by side, as in VideoCoCa.
        """
        pooled, _ = self._pool(self._encoded(images), embedding=True, reading=False)
        assert pooled is not None
        return self._embed_image(pooled)

    def encode_text(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Gives the unit vector of each caption."""
        packing = self._packing(tokens)
        return self._embed_text(self.unimodal_decoder(tokens, packing=packing), tokens, packing)

    def image_tokens(
        self, images: Float[Tensor, "B *F RGB height width"]
    ) -> Float[Tensor, "B Q C"]:
        """Gives the tokens that the decoder reads of each image, or of each series of F."""
        _, tokens = self._pool(self._encoded(images), embedding=False, reading=True)
        assert tokens is not None
        return tokens

    def class_logits(
        self,
        images: Float[Tensor, "*B RGB height width"],
        tokens: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B K"]:
        """Gives the logits of the head's classes; `tokens` hold what is asked, if it is."""
        self._head(images, False)
        return self.head_logits(self.head_tokens(images.flatten(0, -4)), tokens)

    def head_tokens(self, images: Float[Tensor, "BF RGB height width"]) -> Float[Tensor, "BF S C"]:
        """Gives what the head, or the decoder before it, reads of each image."""
        assert self.head is not None
        encoded = self._encoded(images)
        if self.head.config.reads == "image":
            return encoded
        _, tokens = self._pool(encoded, embedding=False, reading=True)
        assert tokens is not None
        return tokens

    def head_logits(
        self, image_tokens: Float[Tensor, "BF S C"], tokens: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Gives the logits of the head's classes from what `head_tokens` gave.

        Args:
            image_tokens: Of all F images of the first sample, then of the next.
            tokens: What is asked of each sample, for a head that reads words.
        """
        assert self.head is not None
        if self.head.config.reads == "image":
            return self.head(image_tokens)
        assert tokens is not None, "this head reads words"
        tokens = tokens.repeat_interleave(self.head.config.pictures, dim=0)
        packing = self._packing(tokens)
        unimodal = self.unimodal_decoder(tokens, packing=packing)
        decoded, inner = self._decoded(unimodal, image_tokens, packing)
        asked, is_asked = _padded(decoded, inner, last_places(self.label_mask(tokens)))
        return self.head(asked, real=is_asked)

    def caption_logits(
        self, images: Float[Tensor, "B RGB height width"], tokens: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Gives the logits of the next word at every position, the plain way.

        Holds all B x T x V numbers at once: for inspection and tests, not for training.
        """
        image = self.multimodal_decoder.read_image(self.image_tokens(images))
        states = self.multimodal_decoder(self.unimodal_decoder(tokens), image)
        return F.linear(states, self.vocabulary_weight)

    @abstractmethod
    def _pool(
        self, encoded: Float[Tensor, "B P W"], *, embedding: bool, reading: bool
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "B Q C"] | None]:
        """Gives what the embedding is a projection of, and what the decoder reads, if wanted."""

    @abstractmethod
    def _packing(self, tokens: Int[Tensor, "B T"]) -> Packing:
        """Plans the rows of captions."""

    @property
    @abstractmethod
    def _idle_rows(self) -> int:
        """Rows at the end of each caption that predict no word."""

    @abstractmethod
    def label_mask(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Marks the positions whose next token the captioning loss asks for."""

    @property
    @abstractmethod
    def poolings(self) -> Poolings:
        """How the encoder's tokens become what the decoder reads, and the embedding."""

    @property
    @abstractmethod
    def vocabulary_weight(self) -> Float[Tensor, "V D"]:
        """The matrix from decoder states to word logits."""

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """One over the temperature: the factor on the cosines of the contrastive loss."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Keeps the learned temperature within its range; call it after each optimiser step."""
        self.log_scale.clamp_(-math.log(HOTTEST), -math.log(COLDEST))

    def _encoded(self, images: Float[Tensor, "B *F RGB height width"]) -> Float[Tensor, "B P W"]:
        """The encoder's tokens; those of a series stand side by side."""
        encoded = self.image_encoder(images.flatten(0, -4))
        return encoded.reshape(len(images), -1, encoded.shape[2])

    def _decoded(
        self,
        unimodal: Float[Tensor, "N D"],
        image_tokens: Float[Tensor, "B Q C"],
        packing: Packing,
    ) -> tuple[Float[Tensor, "M D"], Packing]:
        """The multimodal half's states and their packing; what predicts no word is left out."""
        inner = packing.shortened(self._idle_rows)
        shorter = packing.shorten(unimodal, self._idle_rows)
        states = self.multimodal_decoder(shorter, image_tokens[packing.order], packing=inner)
        return states, inner

    def _embed_image(self, pooled: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        return _unit(self.image_projection(pooled))

    def _embed_text(
        self, unimodal: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B E"]:
        pooled = self.unimodal_decoder.embedding(unimodal, tokens, packing)
        return _unit(self.text_projection(pooled))

    def _head(self, images: Tensor, with_words: bool) -> AttentivePoolingHead:
        """The head that gives class logits."""
        if self.head is None:
            raise ConfigError("this model has no head that names classes; fine-tune one first")
        pictures, given = self.head.config.pictures, images.shape[1] if images.ndim == 5 else 1
        if given != pictures:
            raise ConfigError(f"the head reads {pictures} images a sample, and was given {given}")
        if pictures > 1 and with_words:
            raise ConfigError(
                f"a caption belongs to one image, but each sample has {pictures}; set "
                "contrastive_weight and captioning_weight to 0"
            )
        return self.head


def _unit(vectors: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
    # Normalised in fp32: in half precision the length would be off by a percent.
    return F.normalize(vectors.float(), dim=-1).to(vectors.dtype)


def _padded(
    rows: Float[Tensor, "M D"], packing: Packing, lengths: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """The first rows of each caption beside each other, and which of them are real."""
    places = torch.arange(int(lengths.max()), device=rows.device)
    real = places < lengths[:, None]
    return rows[packing.offsets[:, None] + places * real], real
