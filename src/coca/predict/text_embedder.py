"""Embedding of texts without torch by the text encoder of a shipped model.

Dimensions: N images or texts, M texts scored against N images, E embedding.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from coca.model.shipped import shipped
from coca.predict.manifest import check_shipped
from coca.predict.onnx_predictor import open_exported
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import shorten, shortened

_OF_CLASSES = ("class_nouns", "class_vectors")


class TextEmbedder:
    """A shipped model that embeds texts without torch.

    Everything else, such as embedding an image or scoring a caption, loads the whole model.
    """

    dimensions: int | None = None
    """Dimensions kept of each embedding; None: all. Set by `coca.predict.short_vectors.shorten`."""

    def __init__(self, name: str, load: Callable[[], Predictor]) -> None:
        """Open the text graph of a shipped model."""
        # Idle threads spin: with two, a query takes three times the processor time.
        self._texts = open_exported(shipped()[name], threads=1)
        check_shipped(shipped()[name], self._texts.fingerprint)
        self._load = cache(load)
        self.fingerprint, self.logit_scale = self._texts.fingerprint, self._texts.logit_scale
        self.leading_ids = self._texts.leading_ids

    def __getattr__(self, name: str) -> Any:
        """Get any other attribute from the whole model, or without it where that is the same."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._texts if name in _OF_CLASSES else self.whole, name)

    @property
    def whole(self) -> Predictor:
        """The whole model, with vectors of the same size."""
        loaded = self._load()
        return loaded if self.dimensions is None else shorten(loaded, self.dimensions)

    @property
    def embed_dim(self) -> int:
        """Size of a vector."""
        return self.dimensions or self._texts.embed_dim

    def embed_texts(self, texts: str | Iterable[str]) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per text; a single text is a list of one."""
        vectors = self._texts.embed_texts(texts)
        return vectors if self.dimensions is None else shortened(vectors, self.dimensions)

    def embed_images(self, images: Sequence[Any], **options: Any) -> Float32[np.ndarray, "N E"]:
        """Embed images by the whole model; see `Predictor.embed_images`."""
        return self.whole.embed_images(images, **options)

    def score(
        self, images: Sequence[Any], texts: Sequence[str], **options: Any
    ) -> Float32[np.ndarray, "N M"]:
        """Score captions by the whole model; see `Predictor.score`."""
        return self.whole.score(images, texts, **options)
