"""Predictor with an embedding cache, for many tasks on the same samples."""

import hashlib
from collections.abc import Hashable, Iterable

from jaxtyping import Float
from numpy import ndarray

from coca.predict.inputs import OnError, as_texts
from coca.predict.predictor import Predictor
from coca.processing.image_file import ImageInput


class CachingPredictor(Predictor):
    """A predictor that caches every embedding.

    Of images, only encoded ones (bytes) are cached. Files may change, and comparing arrays costs as
    much as embedding them.
    """

    _vectors: dict[Hashable, ndarray]

    def embed_images(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
    ) -> Float[ndarray, "N E"]:
        """Compute image embeddings, from the cache where possible."""
        encoded = isinstance(images, list | tuple) and all(isinstance(it, bytes) for it in images)
        if not encoded or on_error != "raise":
            return super().embed_images(images, on_error=on_error)
        assert isinstance(images, list | tuple)
        keys = [_key(image) for image in images]
        wanted = {key: row for row, key in enumerate(keys) if key not in self._vectors}
        new = super().embed_images([images[row] for row in wanted.values()])
        self._vectors |= zip(wanted, new, strict=True)
        return self._stacked([self._vectors[key] for key in keys])

    def embed_texts(self, texts: str | Iterable[str]) -> Float[ndarray, "N E"]:
        """Compute text embeddings, from the cache where possible."""
        listed = as_texts(texts)
        wanted = [text for text in dict.fromkeys(listed) if text not in self._vectors]
        new = super().embed_texts(wanted)
        self._vectors |= zip(wanted, new, strict=True)
        return self._stacked([self._vectors[text] for text in listed])


def caching(predictor: Predictor) -> CachingPredictor:
    """Return a copy of a loaded model that caches every embedding; it shares the weights."""
    kind = type(CachingPredictor.__name__, (CachingPredictor, type(predictor)), {})
    copy: CachingPredictor = object.__new__(kind)
    vars(copy).update(vars(predictor), _vectors={})
    return copy


def _key(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()
