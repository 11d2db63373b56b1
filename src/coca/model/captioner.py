"""The common interface of all Contrastive Captioners: the paper's architecture and OpenCLIP's.

Dimensions: B batch, T text tokens, Q image tokens that the decoder reads, D width, C their width,
E shared embedding, M real positions of a batch that predict a token, V vocabulary, N images of all
series, S tokens of the image encoder and W their width, K classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.model.coca_config import HeadConfig
from coca.model.encoders.encoder import ImageEncoder, ImageEncoderConfig
from coca.model.layers.kv_cache import AttentionState
from coca.model.layers.packing import Packing, to_device
from coca.model.layers.transformer import KeysAndValues, unit
from coca.model.pooling import AttentivePoolingHead, ClassBranch, ClassTokens

MAX_TEMPERATURE, MIN_TEMPERATURE = 1.0, 0.01
"""Range of the learned temperature; 0.01 is the bound that CLIP set."""


class Decoded(NamedTuple):
    """Captions after the multimodal decoder, without the rows that have no label."""

    states: Float[Tensor, "M D"]
    """State of each packed row."""
    packing: Packing
    """Rows of the captions, planned where the tokens are."""
    real: Bool[Tensor, "B T"]
    """Positions with a label, as `label_mask` marks them."""


@dataclass(frozen=True)
class CoCaOutput:
    """Outputs of one forward pass; a part that was not requested is None."""

    encoded: Float[Tensor, "N S W"]
    """Tokens of the image encoder, of all images of the first sample, then of the next."""
    image_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the images."""
    text_embedding: Float[Tensor, "B E"] | None
    """Unit vectors of the captions."""
    decoded: Decoded | None
    """All states of the multimodal decoder."""
    caption_states: Float[Tensor, "M D"] | None
    """Decoder states at labelled positions only, caption by caption. The vocabulary layer maps each
    to the logits of the token in `caption_targets`."""
    caption_targets: Int[Tensor, " M"] | None
    """The token that follows each of `caption_states`: w1 .. wn and [EOS] of each caption."""


@runtime_checkable
class TextConfig(Protocol):
    """The text decoder settings that callers may rely on."""

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
        """Maximum number of text tokens in a caption, special tokens not counted."""
        ...

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Special token ids that generation suppresses."""
        ...


@runtime_checkable
class CaptionerConfig(Protocol):
    """The captioner settings that callers may rely on."""

    @property
    def embed_dim(self) -> int: ...
    @property
    def image(self) -> ImageEncoderConfig: ...
    @property
    def text(self) -> TextConfig: ...
    @property
    def head(self) -> HeadConfig | None: ...


class UnimodalHalf(Protocol):
    """The interface of the unimodal text decoder; see `UnimodalDecoder`."""

    token_embedding: nn.Embedding

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
    """The interface of the multimodal text decoder; see `MultimodalDecoder`."""

    def read_image(self, image_tokens: Float[Tensor, "B Q C"]) -> list[KeysAndValues]: ...

    def __call__(
        self,
        states: Float[Tensor, "*B T D"],
        image: Sequence[KeysAndValues] | Float[Tensor, "B Q C"],
        *,
        caches: Sequence[AttentionState] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "*B T D"]: ...


class Encoded(NamedTuple):
    """Images after the image encoder."""

    tokens: Float[Tensor, "N S W"]
    probabilities: Float[Tensor, "N K"] | None
    """Of the classes of the encoder's own classifier; None if the model does not read them."""


class Captioner(nn.Module, ABC):
    """Abstract base class of models that embed images and captions, and generate captions.

    It is a base class and not a Protocol: it is an `nn.Module`, and the runtime checks of a
    Protocol do not see parameters.
    """

    config: CaptionerConfig
    image_encoder: ImageEncoder
    unimodal_decoder: UnimodalHalf
    multimodal_decoder: MultimodalHalf
    image_projection: nn.Module
    text_projection: nn.Module
    head: AttentivePoolingHead | None
    """Classification head for classes, answers or verdicts; None after pretraining."""
    class_branch: ClassBranch | None
    """Part of the image embedding by the image encoder's own classifier; None without one."""
    class_tokens: ClassTokens | None
    """Image tokens of the classes that this classifier finds; None without them."""
    log_scale: nn.Parameter
    """Log of the logit scale, which is one over the temperature."""
    logit_bias: nn.Parameter | None
    """Bias on the logits of the sigmoid loss; None in a model for the softmax loss."""

    def forward(
        self,
        images: Float[Tensor, "*B RGB height width"] | Float[Tensor, "B P F"],
        tokens: Int[Tensor, "B T"] | None = None,
        *,
        contrastive: bool = True,
        captioning: bool = True,
        is_captioned: Bool[Tensor, " B"] | None = None,
    ) -> CoCaOutput:
        """Compute the requested outputs; each tower runs at most once, and only if needed.

        Args:
            images: Normalized images; sides in pixels, multiples of the patch size. F images of
                each sample, as some heads read them, are (B, F, C, height, width). Or the image
                encoder's features (B, P, F) in place of the images, such as from a feature cache.
            tokens: Captions in the layout of this architecture. On the host, nothing waits for
                an accelerator. None: only the tokens of the image encoder are computed.
            contrastive: Return both embeddings.
            captioning: Return decoder states and targets.
            is_captioned: Captions with decoder states and targets in the result. None: all.
        """
        encoded = self._tokens_of(images)
        pooled, image_tokens = self._pool_encoded(
            encoded, embedding=contrastive, reading=captioning
        )
        image_embedding = text_embedding = decoded = states = targets = None
        if contrastive or captioning:
            assert tokens is not None, "these outputs need tokens"
            each = len(encoded.tokens) // len(tokens)
            tokens = tokens.repeat_interleave(each, dim=0) if each > 1 else tokens
            packing, device = self._packing(tokens), encoded.tokens.device
            placed, packed = to_device(tokens, device), packing.to(device)
            unimodal = self.unimodal_decoder(placed, packing=packed)
            if contrastive:
                assert pooled is not None
                image_embedding = self._embed_image(pooled, encoded.probabilities)
                text_embedding = self._embed_text(unimodal, placed, packed)
            if captioning:
                assert image_tokens is not None
                decoded = self._decode(unimodal, image_tokens, packing, self.label_mask(tokens))
                real = decoded.real
                if is_captioned is not None:
                    real = real & is_captioned.repeat_interleave(each)[:, None]
                states = decoded.states[to_device(decoded.packing.rows(real), device)]
                targets = to_device(tokens[:, 1:][real[:, :-1]], device)
        return CoCaOutput(
            encoded=encoded.tokens,
            image_embedding=image_embedding,
            text_embedding=text_embedding,
            decoded=decoded,
            caption_states=states,
            caption_targets=targets,
        )

    def encode(self, images: Float[Tensor, "B *F RGB height width"]) -> Encoded:
        """Encode images; of a series, tokens are concatenated and probabilities averaged."""
        tokens, probabilities = self._tokens_of(images)
        # `len(images)` would fix the batch size of an exported model.
        batch = images.shape[0]
        if probabilities is not None:
            probabilities = probabilities.reshape(batch, -1, probabilities.shape[1]).mean(dim=1)
        return Encoded(tokens.reshape(batch, -1, tokens.shape[2]), probabilities)

    def encode_image(self, images: Float[Tensor, "B *F RGB height width"]) -> Float[Tensor, "B E"]:
        """Compute the unit-length embedding of each image, or of each series of F images.

        The poolers attend to the concatenated tokens of a series, as in VideoCoCa.
        """
        encoded = self.encode(images)
        pooled, _ = self._pool_encoded(encoded, embedding=True, reading=False)
        assert pooled is not None
        return self._embed_image(pooled, encoded.probabilities)

    def encode_text(
        self, tokens: Int[Tensor, "B T"], *, padded: bool = False
    ) -> Float[Tensor, "B E"]:
        """Compute the unit-length embedding of each caption; `padded`: without packing."""
        device = self.log_scale.device
        packing = self._packing(tokens, padded=padded).to(device)
        tokens = to_device(tokens, device)
        return self._embed_text(self.unimodal_decoder(tokens, packing=packing), tokens, packing)

    def image_tokens(
        self, images: Float[Tensor, "B *F RGB height width"]
    ) -> Float[Tensor, "B Q C"]:
        """Compute the decoder's image tokens of each image, or of each series of F images."""
        _, tokens = self._pool_encoded(self.encode(images), embedding=False, reading=True)
        assert tokens is not None
        return tokens

    def encode_image_and_tokens(
        self, images: Float[Tensor, "B *F RGB height width"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B Q C"], Float[Tensor, "B K"] | None]:
        """Compute `encode_image`, `image_tokens` and the class probabilities in one pass.

        The probabilities are those that the model reads, None without class branch and tokens.
        """
        encoded = self.encode(images)
        pooled, tokens = self._pool_encoded(encoded, embedding=True, reading=True)
        assert pooled is not None
        assert tokens is not None
        return self._embed_image(pooled, encoded.probabilities), tokens, encoded.probabilities

    def decode(self, tokens: Int[Tensor, "N T"], image_tokens: Float[Tensor, "N Q C"]) -> Decoded:
        """Run both decoders on captions, each with its own image tokens."""
        packing, device = self._packing(tokens), image_tokens.device
        unimodal = self.unimodal_decoder(to_device(tokens, device), packing=packing.to(device))
        return self._decode(unimodal, image_tokens, packing, self.label_mask(tokens))

    def caption_logits(
        self, images: Float[Tensor, "B RGB height width"], tokens: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T V"]:
        """Compute the next-token logits at every position, without packing.

        The result has B x T x V elements: for inspection and tests, not for training.
        """
        image = self.multimodal_decoder.read_image(self.image_tokens(images))
        states = self.multimodal_decoder(self.unimodal_decoder(tokens), image)
        return F.linear(states, self.vocabulary_weight)

    def _pool_encoded(
        self, encoded: Encoded, *, embedding: bool, reading: bool
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "B Q C"] | None]:
        """Pool as `_pool` does, and append the class tokens to those of the decoder."""
        pooled, tokens = self._pool(encoded.tokens, embedding=embedding, reading=reading)
        if reading and self.class_tokens is not None:
            assert tokens is not None
            assert encoded.probabilities is not None
            likely = self.class_tokens(encoded.probabilities, self.unimodal_decoder.token_embedding)
            tokens = torch.cat([tokens, likely.to(tokens.dtype)], dim=1)
        return pooled, tokens

    @abstractmethod
    def _pool(
        self, encoded: Float[Tensor, "B P W"], *, embedding: bool, reading: bool
    ) -> tuple[Float[Tensor, "B D"] | None, Float[Tensor, "B Q C"] | None]:
        """Pool to the token that is projected to the embedding, and to the decoder's tokens."""

    @abstractmethod
    def _packing(self, tokens: Int[Tensor, "B T"], *, padded: bool = False) -> Packing:
        """Pack captions into length buckets, or with `padded` into one bucket with all rows."""

    @property
    @abstractmethod
    def _unlabeled_rows(self) -> int:
        """Number of rows at the end of each caption without a label."""

    @abstractmethod
    def label_mask(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Mark the positions whose next token is a captioning label."""

    @property
    @abstractmethod
    def vocabulary_weight(self) -> Float[Tensor, "V D"]:
        """The (V, D) matrix from decoder states to logits."""

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """The factor on the cosine similarities of the contrastive loss: one over temperature."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Clamp the learned temperature to 0.01 to 1; call it after each optimizer step."""
        self.log_scale.clamp_(-math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE))

    def _tokens_of(
        self, images: Float[Tensor, "*B RGB height width"] | Float[Tensor, "B P F"]
    ) -> Encoded:
        """Encode images, or project the features of images."""
        encoder, is_classified = self.image_encoder, bool(self.class_branch or self.class_tokens)
        if images.ndim > 3 and not is_classified:
            # By its `forward`, which FSDP and hooks need.
            return Encoded(encoder(images.flatten(0, -4)), None)
        if images.ndim == 3:
            features = images.to(self.log_scale.dtype)
        else:
            features = encoder.features(images.flatten(0, -4))
        final = encoder.finish(features)
        probabilities = None
        if is_classified:
            probabilities = encoder.classify(final).float().softmax(dim=1)
        return Encoded(encoder.project(final), probabilities)

    def _decode(
        self,
        unimodal: Float[Tensor, "rows D"],
        image_tokens: Float[Tensor, "B Q C"],
        packing: Packing,
        real: Bool[Tensor, "B T"],
    ) -> Decoded:
        """Run the multimodal decoder on the rows that may have a label."""
        packed = packing.to(unimodal.device)
        shorter = packed.shorten(unimodal, self._unlabeled_rows)
        inner = packed.shortened(self._unlabeled_rows)
        states = self.multimodal_decoder(shorter, image_tokens[packed.order], packing=inner)
        return Decoded(states, packing.shortened(self._unlabeled_rows), real)

    def _embed_image(
        self, pooled: Float[Tensor, "B D"], probabilities: Float[Tensor, "B K"] | None
    ) -> Float[Tensor, "B E"]:
        embedding = unit(self.image_projection(pooled))
        if self.class_branch is None:
            return embedding
        assert probabilities is not None
        return unit(embedding + self.class_branch(probabilities))

    def _embed_text(
        self, unimodal: Float[Tensor, "M D"], tokens: Int[Tensor, "B T"], packing: Packing
    ) -> Float[Tensor, "B E"]:
        pooled = self.unimodal_decoder.embedding(unimodal, tokens, packing)
        return unit(self.text_projection(pooled))
