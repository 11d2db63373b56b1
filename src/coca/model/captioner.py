"""What every Contrastive Captioner offers, whether the paper's architecture or OpenCLIP's.

Letters: B batch, T text tokens, Q image tokens that the decoder reads, D width, C their width,
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

from coca.model.config import ImageEncoderConfig
from coca.model.layers import KeysAndValues
from coca.model.memory import Memory
from coca.model.pooling import Pooling

HOTTEST, COLDEST = 1.0, 0.01
"""Range of the learned temperature; 0.01 is the bound that CLIP set."""


@dataclass(frozen=True)
class CoCaOutput:
    """What one forward pass gives; a part that was not asked for is None."""

    image_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the pictures."""
    text_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the captions."""
    caption_states: Float[Tensor, "M D"] | None
    """Decoder states at real positions only, row by row; the vocabulary layer turns each into
    logits for the word in `caption_targets`."""
    caption_targets: Int[Tensor, " M"] | None
    """The word that follows each of `caption_states`: w1 .. wn and [EOS] of each caption."""
    class_logits: Float[Tensor, "B classes"] | None
    """Logits of the optional classification head."""


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
    def max_words(self) -> int:
        """Words that a caption has room for beside its special tokens."""
        ...

    @property
    def never_written(self) -> tuple[int, ...]:
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


class UnimodalHalf(Protocol):
    """The lower half of a text decoder, as generation uses it; see `UnimodalDecoder`."""

    def __call__(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        caches: Sequence[Memory] | None = None,
        positions: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]: ...


class MultimodalHalf(Protocol):
    """The upper half of a text decoder, as generation uses it; see `MultimodalDecoder`."""

    def read_image(self, image_tokens: Float[Tensor, "B Q C"]) -> list[KeysAndValues]: ...

    def __call__(
        self,
        states: Float[Tensor, "B T D"],
        image: Sequence[KeysAndValues],
        *,
        caches: Sequence[Memory] | None = None,
    ) -> Float[Tensor, "B T D"]: ...


@dataclass(frozen=True)
class Poolings:
    """Both ways from the encoder's tokens on, step by step."""

    captioning: tuple[Pooling, ...]
    """To the tokens that the decoder reads."""
    contrastive: tuple[Pooling, ...]
    """To the one token that the embedding is a projection of."""
    projection: nn.Module
    """To the embedding, before it is normalised."""
    extra_tokens: int = 0
    """Tokens in front of those of the patches."""


class Captioner(nn.Module, ABC):
    """A model that embeds pictures and captions, and writes captions.

    A base class and no Protocol: it is an `nn.Module`, and parameters are invisible to the checks
    that a Protocol would make.
    """

    config: CaptionerConfig
    image_encoder: nn.Module
    unimodal_decoder: UnimodalHalf
    multimodal_decoder: MultimodalHalf
    classification_head: nn.Module | None
    log_scale: nn.Parameter
    """Logarithm of one over the temperature."""
    logit_bias: nn.Parameter | None
    """Added to the logits of the sigmoid loss; None in a model that was not made for it."""

    @abstractmethod
    def forward(
        self,
        images: Float[Tensor, "B C height width"],
        tokens: Int[Tensor, "B T"],
        *,
        contrastive: bool = True,
        captioning: bool = True,
        classification: bool = False,
    ) -> CoCaOutput:
        """Runs each tower at most once, and only if a wanted part needs it."""

    @abstractmethod
    def encode_image(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B E"]:
        """Gives the unit vector of each picture."""

    @abstractmethod
    def encode_text(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Gives the unit vector of each caption."""

    @abstractmethod
    def image_tokens(self, images: Float[Tensor, "B C height width"]) -> Float[Tensor, "B Q C"]:
        """Gives the tokens that the decoder reads."""

    def caption_logits(
        self, images: Float[Tensor, "B C height width"], tokens: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Gives the logits of the next word at every position, the plain way.

        Holds all B x T x V numbers at once: for inspection and tests, not for training.
        """
        image = self.multimodal_decoder.read_image(self.image_tokens(images))
        states = self.multimodal_decoder(self.unimodal_decoder(tokens), image)
        return F.linear(states, self.vocabulary_weight)

    @abstractmethod
    def predicts(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
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
