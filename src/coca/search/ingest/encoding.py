"""Encode new images: vector, nouns and caption in one pass of the model, and the text inside.

The model is loaded at the first image that needs it, so a run without changes loads none.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32

from coca.core.errors import DataError
from coca.processing.image_file import read_image
from coca.search.perceptual_hash import DECODED_SIDE
from coca.search.perceptual_hash import perceptual_hash as hash_of
from coca.search.predictor import DescribingEmbedder, Embedder, PreparingEmbedder
from coca.search.records import CollectionInfo, batches, check_same_model

_MOST_IMAGES = 64

Captioner: TypeAlias = Callable[[Sequence[bytes]], Sequence[str]]
"""Generates a caption for each encoded image, or reads the text inside it."""
Vectors: TypeAlias = dict[str, Float32[np.ndarray, " E"]]
"""Vectors by key."""
Nouns: TypeAlias = dict[str, Mapping[str, int]]
"""What a classifier sees, with percentages, by key."""


class Encoder:
    """Model of a run, loaded once when it is first needed; thread-safe.

    Args:
        embedder: The model, or a function that loads it.
        info: Collection of the vectors, whose model it must be.
        captions: Whether captions are generated; also with a captioner.
        certainty: Least certainty of the captions of the embedder, 0 to 1.
        captioner: Model that generates them; default: the embedder, if it can.

    Attributes:
        captions: Whether captions are generated.
    """

    def __init__(
        self,
        embedder: Embedder | Callable[[], Embedder],
        info: CollectionInfo,
        *,
        captions: bool = False,
        certainty: float = 0.0,
        captioner: Captioner | None = None,
    ) -> None:
        self.captions = captions or captioner is not None
        self._source, self._info = embedder, info
        self._captioner, self._certainty = captioner, certainty
        self._loaded = self._checked(embedder) if isinstance(embedder, Embedder) else None
        self._lock = threading.Lock()

    def _checked(self, model: Embedder) -> Embedder:
        check_same_model(self._info, fingerprint=model.fingerprint, embed_dim=model.embed_dim)
        return model

    @property
    def embedder(self) -> Embedder:
        """The model; the first call loads and checks it."""
        with self._lock:
            if self._loaded is None:
                assert not isinstance(self._source, Embedder)
                self._loaded = self._checked(self._source())
            return self._loaded

    def writes_captions(self) -> bool:
        """Return whether captions are generated; loads the model if it decides that."""
        if not self.captions or self._captioner is not None:
            return self.captions
        return isinstance(self.embedder, DescribingEmbedder) and self.embedder.has_decoder

    def prepare(self, image: bytes, size: tuple[int, int]) -> tuple[bytes, Any]:
        """Decode an image, compute its perceptual hash, and preprocess it for the model.

        Args:
            image: The encoded image.
            size: Width and height that its header gives, in pixels.

        Returns:
            The hash, empty if the model reads other files than images; and the model input, None
            if the model takes bytes.

        Raises:
            DataError: It cannot be read.
        """
        embedder, perceptual_hash = self.embedder, b""
        source: Any = image
        if getattr(embedder, "reads_pixels", True):
            with suppress(DataError):  # the embedder reports it
                pixels = read_image(image, at_least=DECODED_SIDE)
                perceptual_hash = hash_of(pixels)
                # A JPEG is decoded faster twice, once at a fraction of its size.
                if pixels.size == size and hasattr(embedder, "reads_pixels"):
                    source = np.asarray(pixels)
        if not isinstance(embedder, PreparingEmbedder):
            return perceptual_hash, None
        return perceptual_hash, embedder.prepare_image(source)

    def encode(
        self, images: Mapping[str, tuple[bytes, Any]], *, captioned: set[str], embedded: set[str]
    ) -> tuple[Vectors, Nouns, dict[str, str], dict[str, DataError]]:
        """Embed, name and caption images by key, each in one pass if the embedder can.

        Args:
            images: Bytes and preprocessed input of each image; None if it is not preprocessed.
            captioned: Keys of the images that need a caption.
            embedded: Keys of the images that need a vector.

        Returns:
            Vectors, nouns, captions and errors by key.
        """
        embedder = self.embedder
        vectors, nouns, captions = Vectors(), Nouns(), dict[str, str]()
        faults = dict[str, DataError]()
        inputs: dict[str, Any] = {key: data for key, (data, _) in images.items()}
        if isinstance(embedder, PreparingEmbedder):
            for key, (data, prepared) in images.items():
                try:
                    inputs[key] = embedder.prepare_image(data) if prepared is None else prepared
                except DataError as error:
                    faults[key] = error
        good = [key for key in inputs if key not in faults]
        rest = [key for key in good if key in embedded]
        if isinstance(embedder, DescribingEmbedder) and embedder.has_decoder:
            own = captioned if self._captioner is None else set[str]()
            both = [key for key in good if key in own]
            for keys in (both, [key for key in rest if key not in own]):
                described = embedder.describe(
                    [inputs[key] for key in keys],
                    captions=keys is both,
                    certainty=self._certainty,
                )
                for key, one in zip(keys, described, strict=True):
                    vectors[key], nouns[key] = one.vector, one.nouns
                    if keys is both:
                        captions[key] = one.caption
            rest = []
        for keys in batches(rest, int(getattr(embedder, "batch_size", 0)) or _MOST_IMAGES):
            chosen = [inputs[key] for key in keys]
            if isinstance(embedder, PreparingEmbedder):
                vectors |= zip(keys, embedder.embed_prepared(chosen), strict=True)
                continue
            for key, answer in zip(keys, embed_each(embedder, chosen), strict=True):
                if isinstance(answer, DataError):
                    faults[key] = answer
                else:
                    vectors[key] = answer
        left = captioned - captions.keys() - faults.keys()
        due = [key for key in good if key in left]
        if self._captioner is not None and due:
            written = self._captioner([images[key][0] for key in due])
            captions |= zip(due, written, strict=True)
        return vectors, nouns, captions, faults

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed texts; return vectors by text."""
        return dict(zip(texts, self.embedder.embed_texts(texts), strict=True)) if texts else {}


def embed_each(
    embedder: Embedder, images: Sequence[bytes]
) -> list[Float32[np.ndarray, " E"] | DataError]:
    """Embed a batch of images; return the vector or the error of each."""
    if not images:
        return []
    try:
        return list(embedder.embed_images(images))
    except DataError as error:
        if len(images) == 1:
            return [error]
        # Bisect to isolate the unreadable images.
        half = len(images) // 2
        return [*embed_each(embedder, images[:half]), *embed_each(embedder, images[half:])]
