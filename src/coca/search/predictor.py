"""Protocols of models: the embedder that a search needs, and all that a loaded model can do.

Both predictors, of torch (`coca.inference.predictor`) and of ONNX Runtime
(`coca.runtime.predictor`), fulfil `Predictor`. What each argument means is documented in their base
class, `coca.runtime.base_predictor`.

Dimensions: N images or texts, M texts scored against N images, E embedding, K labels, S side of the
model's input (pixels).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, Unpack, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from coca.core.progress import ProgressOption
from coca.runtime.generation_config import GenerationConfig, GenerationOptions
from coca.runtime.inputs import Caption, ImageInput, Prediction, SampleImages, WordMaps
from coca.runtime.preprocess import ImageSettings
from coca.runtime.prompts import Templates
from coca.runtime.unreadable import OnError


@runtime_checkable
class Embedder(Protocol):
    """Model that embeds images and texts into one vector space."""

    @property
    def fingerprint(self) -> str:
        """Identifier of the model; changes whenever its vectors change."""
        ...

    @property
    def embed_dim(self) -> int:
        """Size of a vector."""
        ...

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        """Embed images (bytes, paths, or other forms it reads) as vectors of length 1.

        Raises:
            DataError: An image cannot be read.
        """
        ...

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """Embed texts as vectors of length 1."""
        ...


@runtime_checkable
class PreparingEmbedder(Embedder, Protocol):
    """Embedder with a separate preprocessing step, so that threads can preprocess."""

    def prepare_image(self, image: Any) -> Any:
        """Preprocess one image for the model; thread-safe.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def embed_prepared(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        """Embed preprocessed images as vectors of length 1."""
        ...


@runtime_checkable
class CaptionScorer(Protocol):
    """Model that scores captions by likelihood."""

    @property
    def logit_scale(self) -> float:
        """Factor that turns cosines into logits."""
        ...

    def score(self, images: Sequence[Any], texts: Sequence[str]) -> Float[np.ndarray, "N M"]:
        """Compute log p(text | image) of all pairs, in nats.

        Raises:
            DataError: An image cannot be read.
        """
        ...


@runtime_checkable
class Predictor(PreparingEmbedder, CaptionScorer, Protocol):
    """A loaded model: embed, caption, score, classify and answer.

    An operation that the runtime does not have raises an `UnsupportedError`.
    """

    source: str
    """Name or folder that the model was loaded from."""
    batch_size: int
    """Images or texts per batch."""

    @property
    def dtype(self) -> str:
        """Precision of the weights, such as `float32`."""
        ...

    @property
    def image_settings(self) -> ImageSettings:
        """Preprocessing of images."""
        ...

    @property
    def context_length(self) -> int:
        """Maximum number of tokens in a text, special tokens included."""
        ...

    @property
    def max_text_tokens(self) -> int:
        """Maximum number of tokens in a text, without special tokens."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model's head; empty without a head."""
        ...

    @property
    def answers_questions(self) -> bool:
        """Whether the model has a head that reads a text."""
        ...

    @property
    def images_per_sample(self) -> int:
        """Images per sample of the model's head; 1 without a head."""
        ...

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        ...

    def embed_images(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per image."""
        ...

    def embed_texts(
        self, texts: str | Iterable[str], *, progress: ProgressOption = False
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per text."""
        ...

    def embed_clips(
        self, clips: Sequence[Sequence[ImageInput]], *, progress: ProgressOption = False
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per clip, from the tokens of all its images at once."""
        ...

    def prepare_image(self, image: ImageInput) -> UInt8[np.ndarray, "3 S S"]:
        """Decode and resize one image for `embed_prepared`; thread-safe."""
        ...

    def embed_prepared(
        self, images: Sequence[UInt8[np.ndarray, "3 S S"]]
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per output of `prepare_image`, all in one batch."""
        ...

    def caption(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        prompt: str | Iterable[str] = "",
        decoding: GenerationConfig | None = None,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
        **options: Unpack[GenerationOptions],
    ) -> list[Caption]:
        """Generate a caption for each image."""
        ...

    def caption_clips(
        self,
        clips: Sequence[Sequence[ImageInput]],
        *,
        prompt: str = "",
        decoding: GenerationConfig | None = None,
        progress: ProgressOption = False,
        **options: Unpack[GenerationOptions],
    ) -> list[Caption]:
        """Generate a caption for each clip, from the tokens of all its images at once."""
        ...

    def explain_caption(
        self, image: ImageInput, *, caption: str | Caption | None = None, prompt: str = ""
    ) -> WordMaps:
        """Compute the cross-attention maps of a generated or given caption."""
        ...

    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        texts: str | Iterable[str],
        *,
        by_length: bool = False,
        only: Bool[np.ndarray, "N M"] | None = None,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "N M"]:
        """Compute the log-likelihood log p(text | image) of all pairs, in nats."""
        ...

    def class_embeddings(
        self,
        labels: str | Iterable[str],
        *,
        templates: Templates = ("{}",),
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "K E"]:
        """Compute one unit-norm class embedding per label: the mean over its prompts."""
        ...

    def class_log_likelihoods(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: str | Iterable[str],
        *,
        templates: Templates = ("{}",),
        only: Bool[np.ndarray, "N K"] | None = None,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "N K"]:
        """Compute the log-likelihood of each label's prompts, in nats."""
        ...

    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: str | Iterable[str] | None = None,
        *,
        templates: Templates | None = None,
        by: Literal["similarity", "likelihood"] = "similarity",
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> list[list[Prediction]]:
        """Rank the labels by probability for each image."""
        ...

    def head_logits(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "N K"]:
        """Compute the logits of the head's classes."""
        ...

    def answer(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> list[list[Prediction]]:
        """Rank the head's classes by probability for each sample."""
        ...
