"""Protocols of models: what a search needs, so that models of other libraries can be searched with.

The predictors of `coca.predict` fulfil all of them; their base class is `coca.predict.predictor`.

Dimensions: N images or texts, M texts scored against N images, E embedding.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from coca.processing.description import Description


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
class DescribingEmbedder(PreparingEmbedder, Protocol):
    """Embedder that may also name and caption images, from the same pass of the image encoder."""

    @property
    def has_decoder(self) -> bool:
        """Whether it generates captions; without a decoder, `describe` raises an error."""
        ...

    def describe(
        self, images: Sequence[Any], *, captions: bool, certainty: float
    ) -> Sequence[Description]:
        """Embed preprocessed images, and generate their captions if `captions`.

        A caption whose certainty (0 to 1) is less than `certainty` is left out, or replaced by a
        noun.
        """
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
