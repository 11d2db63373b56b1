"""Served model: a predictor whose calls are batched, and whose images are decoded elsewhere.

Requests of many clients share the model: their inputs are collected into batches, and its calls
take turns.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import Full
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Float32

from coca.core.cancellation import check_cancelled
from coca.core.errors import DataError
from coca.predict.image_reading import ImageReading
from coca.predict.inputs import Caption, Prediction, predictions
from coca.predict.predictor import Predictor
from coca.predict.prompts import class_means, sentences_of
from coca.processing.description import Description
from coca.server.errors import ServiceError
from coca.server.images.data_uris import DecodedImage
from coca.server.images.decoding.decoder import Decoder
from coca.server.settings import ServerSettings
from coca.server.turns import Rotation, Turns
from coca.workflows.collections.collection_model import text_embedder

T = TypeVar("T")
R = TypeVar("R")

RETRY_AFTER_S = 1
"""Advised wait of a client whose request found a full queue, in seconds."""
MAX_SCORED = 8
"""Maximum number of images that a call of the model scores: a larger batch is not faster, and other
requests wait for it."""


class Batcher(Generic[T, R]):
    """Collects items of several threads into batches, bounded by size and by time.

    A thread of its own calls the model. While it works, further items queue up, so that the batches
    grow with the load; the keys of requests take turns. An item that arrives at an idle model waits
    for at most `wait_s`, and not at all after a batch of one item: a single client would wait for
    nobody.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_batch: int,
        wait_s: float,
        queue_size: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Start the thread."""
        self._run = run
        self._max_batch = max_batch
        self._wait_s = wait_s if max_batch > 1 else 0.0
        self._last_size = 1
        self._observe = observe
        self._queue_size = queue_size
        self._queue: Rotation[tuple[T, Future[R]]] = Rotation(max_items=queue_size)
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of waiting items."""
        return len(self._queue)

    def map(self, items: Sequence[T]) -> list[R]:
        """Compute the results of some items, in batches with the items of other threads.

        At most one batch of a call waits at a time, so that another call waits for two batches,
        however many items this one has.
        """
        part = min(self._max_batch, self._queue_size)
        results: list[R] = []
        for start in range(0, len(items), part):
            check_cancelled()
            futures = [self._submit(item) for item in items[start : start + part]]
            results += [future.result() for future in futures]
        return results

    def close(self) -> None:
        """Finish the queued items and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _submit(self, item: T) -> "Future[R]":
        future: Future[R] = Future()
        try:
            with self._changed:
                self._queue.push((item, future))
                self._changed.notify()
        except Full:
            raise ServiceError(
                f"the service is overloaded: {self._queue_size} items wait already",
                status=503,
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        return future

    def _work(self) -> None:
        while batch := self._next_batch():
            self._observe(len(batch))
            try:
                results = self._run([item for item, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)

    def _next_batch(self) -> list[tuple[T, "Future[R]"]]:
        """Wait for a first item, then take what arrives in time; empty ends the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._changed.wait_for(
                lambda: len(self._queue) >= self._max_batch or self._closed,
                0.0 if self._last_size == 1 else self._wait_s,
            )
            batch = [self._queue.pop() for _ in range(min(len(self._queue), self._max_batch))]
        self._last_size = len(batch)
        return batch


class ServedModel:
    """Model of the service: an `Embedder` and a `CaptionScorer` for search engines.

    Embeddings of all clients are batched. One call of the model runs at a time, since each one uses
    all cores. A call has at most one batch, and calls take turns: no request holds the model.
    """

    def __init__(self, predictor: Predictor, decoder: Decoder, settings: ServerSettings) -> None:
        """Wrap a loaded model and start the threads that call it."""
        self.predictor, self._text_embedder = predictor, text_embedder(predictor)
        self.fingerprint, self.embed_dim = predictor.fingerprint, predictor.embed_dim
        self.logit_scale, self.source = predictor.logit_scale, predictor.source
        self.class_vectors, self.class_nouns = predictor.class_vectors, predictor.class_nouns
        self.leading_ids = self._text_embedder.leading_ids
        self.decoder = decoder
        self._lock = Turns()
        self._max_batch = settings.max_batch
        limits: dict[str, Any] = {
            "max_batch": settings.max_batch,
            "wait_s": settings.batch_wait_ms / 1_000,
            "queue_size": settings.queue_size,
        }
        self.texts: Batcher[str, Float32[np.ndarray, " E"]] = Batcher(self._embed_texts, **limits)
        self.images: Batcher[DecodedImage, Float32[np.ndarray, " E"]] = Batcher(
            self._embed_images, **limits
        )

    def embed_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """Embed texts as vectors of length 1."""
        return self._stacked(self.texts.map(texts))

    def embed_images(self, images: Sequence[Any]) -> Float32[np.ndarray, "N E"]:
        """Embed encoded or decoded images as vectors of length 1."""
        return self._stacked(self.images.map([self.decoded(image) for image in images]))

    def describe(self, image: DecodedImage) -> Description:
        """Embed an image, and name what a classifier of the model sees in it."""
        if not self.predictor.has_decoder:
            return Description(self.embed_images([image])[0], {})
        with self._lock:
            return self.predictor.describe([image.square.transpose(2, 0, 1)], captions=False)[0]

    def embed_mixed(
        self, texts: Mapping[int, str], images: Mapping[int, Any]
    ) -> Float32[np.ndarray, "N E"]:
        """Embed texts and images, each given by its position in the result."""
        vectors = np.zeros((len(texts) + len(images), self.embed_dim), np.float32)
        if texts:
            vectors[list(texts)] = self.embed_texts(list(texts.values()))
        if images:
            vectors[list(images)] = self.embed_images(list(images.values()))
        return vectors

    def score(self, images: Sequence[Any], texts: Sequence[str]) -> Float[np.ndarray, "N M"]:
        """Compute log p(text | image) of all pairs, in nats; some images in each call."""
        rows = [np.zeros((0, len(texts)), np.float32)]
        part = min(self._max_batch, MAX_SCORED)
        for start in range(0, len(images), part):
            squares = self._squares(images[start : start + part])
            with self._lock:
                rows.append(self.predictor.score(squares, texts))
        return np.concatenate(rows)

    def caption(self, images: Sequence[Any], **options: Any) -> list[Caption]:
        """Generate a caption for each image; see `Predictor.caption`."""
        squares = self._squares(images)
        with self._lock:
            return self.predictor.caption(squares, **options)

    def classify(
        self, images: Sequence[Any], labels: Sequence[str], *, templates: Sequence[str]
    ) -> list[list[Prediction]]:
        """Rank labels by probability for each image; see `Predictor.classify`."""
        groups = sentences_of(labels, templates)
        vectors = self.embed_texts([text for group in groups for text in group])
        cosines = self.embed_images(images) @ class_means(vectors, groups).T
        return predictions(self.logit_scale * cosines, labels)

    def read_image(
        self, image: Any, words: Sequence[str], *, captioned: bool = False
    ) -> ImageReading:
        """Score words and generate a caption; see `Predictor.read_image`."""
        (square,) = self._squares([image])
        with self._lock:
            return self.predictor.read_image(square, words, captioned=captioned)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text that the model reads, the first token included."""
        return 1 + len(self.leading_ids(text, self.predictor.max_text_tokens))

    def answer(self, images: Sequence[Any], questions: Sequence[str]) -> list[list[Prediction]]:
        """Rank the answers of the model's head; see `Predictor.answer`."""
        squares = self._squares(images)
        with self._lock:
            return self.predictor.answer(squares, questions)

    def decoded(self, image: Any) -> DecodedImage:
        """Decode an encoded image; a decoded image is returned unchanged."""
        match image:
            case DecodedImage():
                return image
            case bytes():
                return self.decoder.decode(image)
        raise DataError(
            f"an image of the service must be encoded bytes, got {type(image).__name__}",
            reason="unsupported",
        )

    def close(self) -> None:
        """End the threads and the decoder."""
        self.texts.close()
        self.images.close()
        self.decoder.close()

    def _embed_texts(self, texts: Sequence[str]) -> list[Float32[np.ndarray, " E"]]:
        with self._lock:
            return list(self._text_embedder.embed_texts(texts))

    def _embed_images(self, images: Sequence[DecodedImage]) -> list[Float32[np.ndarray, " E"]]:
        with self._lock:
            squares = [image.square.transpose(2, 0, 1) for image in images]
            return list(self.predictor.embed_prepared(squares))

    def _squares(self, images: Sequence[Any]) -> list[np.ndarray]:
        return [self.decoded(image).square for image in images]

    def _stacked(self, rows: list[np.ndarray]) -> np.ndarray:
        return np.stack(rows) if rows else np.zeros((0, self.embed_dim), np.float32)
