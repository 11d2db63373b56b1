"""Base class of image-text models without a decoder: CLIP, SigLIP and the models derived from them.

A library adds the encoders of one batch, and its tokenizer. Captions, scores and answers raise an
`UnsupportedError`.

Dimensions: B batch, N images, H, W height and width of the model's input (pixels), E shared
embedding.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NoReturn

import numpy as np
from jaxtyping import Float32, UInt8

from coca.core.errors import UnsupportedError
from coca.core.prefetch import map_ahead
from coca.core.progress import progress_bar
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import normalized
from coca.processing.image_file import ImageInput, reading_threads
from coca.processing.preprocess import square
from coca.processing.tokenizer_file import whole


class EmbeddingPredictor(Predictor):
    """A loaded image-text model that embeds images and texts, and has no decoder.

    Images are read as everywhere in this package: upright, and blended with white where they are
    transparent. From there on they are resized and normalized as by the model's own library.
    """

    has_decoder = False
    library: ClassVar[str]
    """Distribution that runs the model."""

    def parameter_counts(self) -> dict[str, int]:
        """Count the parameters of each part and of all; empty where the library has no count."""
        return {}

    def accelerate(self) -> None:
        """Change the model for faster inference on a CPU, where its library can."""

    def prepare_image(self, image: ImageInput) -> UInt8[np.ndarray, "3 H W"]:
        """Decode and resize one image for `embed_prepared`; thread-safe."""
        return square(image, self.image_settings)

    def embed_prepared(
        self, images: Sequence[UInt8[np.ndarray, "3 _ _"]]
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per output of `prepare_image`, all in one batch."""
        return self._short(self._encode_images(self._joined(images)))

    @abstractmethod
    def _image_features(self, pixels: Any) -> Float32[np.ndarray, "B E"]:
        """Compute image features of any length from pixels, 0 to 255."""

    @abstractmethod
    def _text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        """Compute text features of any length."""

    def _encode_images(self, pixels: Any) -> Float32[np.ndarray, "B E"]:
        return normalized(self._image_features(pixels))

    def _encode_texts(self, tokens: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        return normalized(self._text_features(tokens))

    def _tokens(self, texts: Sequence[str]) -> list[str]:
        """Check the texts; the library tokenizes them, each batch to its own length."""
        return [whole(text) for text in texts]

    def _joined(self, images: Sequence[UInt8[np.ndarray, "3 _ _"]]) -> Any:
        """Join images to one array, or to a list where their sizes differ."""
        return list(images) if self.image_settings.resize == "within" else np.stack(images)

    def _read_ahead(self, images: Sequence[ImageInput], title: str) -> Iterator[Any]:
        """Yield batches of pixels; the next one is read in threads while the model computes."""
        size = self.batch_size
        batches = (images[start : start + size] for start in range(0, len(images), size))

        def read(batch: Sequence[ImageInput]) -> Any:
            return self._joined(list(readers.map(self.prepare_image, batch)))

        pool = ThreadPoolExecutor(reading_threads(images))
        with progress_bar(title, len(images)) as bar, pool as readers:
            for pixels in map_ahead(read, batches, threads=1, ahead=1):
                yield pixels
                bar.advance(len(pixels))

    def _refuse(self, *inputs: Any, **options: Any) -> NoReturn:
        """Raise an error: the model has no decoder."""
        raise UnsupportedError(
            f"{self.source} embeds single images and texts, and has no decoder for captions, "
            "reranking and answers: use a CoCa model for these, such as everyday (`coca index "
            "--captions-from everyday` writes its captions), or train a decoder on this one "
            "(recipes/pretrain/siglip2_captions.yaml)"
        )

    caption = read_image = describe = score = embed_clips = caption_clips = _refuse
    head_logits = _from_squares = _encode_prompt = _decode = _refuse
    _image_tokens = _encode_images_and_tokens = _generate = _refuse
    _score_tokens = _scored_lengths = _refuse
