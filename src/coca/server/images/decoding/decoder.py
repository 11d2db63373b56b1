"""Decode untrusted images: model input, metadata and thumbnails from encoded bytes."""

import os
import queue
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from coca.core.errors import DataError
from coca.processing.preprocess import ImageSettings
from coca.search.ingest.photo_metadata import Annotation
from coca.search.records import storage_error
from coca.server.errors import ServiceError
from coca.server.images.data_uris import DecodedImage
from coca.server.images.decoding.worker_process import WorkerDiedError, WorkerProcess
from coca.server.turns import Turns

MAX_PROCESSES = 4
"""Maximum number of decoder processes, also on machines with more cores."""
MAX_LARGE = 8
"""Maximum number of images of a key that wait because they are above the share of a process in the
maximum number of pixels."""
_MAX_THUMBNAIL_BYTES = 16 << 20


@runtime_checkable
class Decoder(Protocol):
    """Decodes encoded images."""

    def decode(self, data: bytes) -> DecodedImage:
        """Decode an image to the model's input size."""
        ...

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Encode an image as a JPEG whose longer side has at most `side` pixels."""
        ...

    def pixels(self, data: bytes, side: int) -> UInt8[np.ndarray, "H W 3"]:
        """Decode an image to RGB pixels whose longer side has at most `side` pixels."""
        ...

    def close(self) -> None:
        """Release the resources."""
        ...


class ProcessDecoder:
    """Decodes in processes with limits of memory and time, so that no image harms the service.

    A process that crashes, hangs or is killed is replaced. Thread-safe: several threads decode at
    the same time in as many processes, up to one for each core.
    """

    def __init__(
        self,
        settings: ImageSettings,
        *,
        max_pixels: int,
        timeout_s: float,
        processes: int | None = None,
    ) -> None:
        """Start the first process; the others start when they are needed."""
        self._settings = settings
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        count = processes or min(MAX_PROCESSES, os.cpu_count() or 1)
        # The last process that was used comes first, so that idle ones are never started.
        self._free: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue(count)
        for _ in range(count - 1):
            self._free.put(None)
        self._free.put(self._start())
        self._count = count
        self._turns = Turns(count)
        self._large = Turns(max_waiting=MAX_LARGE)

    def decode(self, data: bytes) -> DecodedImage:
        """Decode an image to the model's input size."""
        side, fixed = self._settings.image_size, self._settings.resize != "within"
        request = {"at_least": self._settings.at_least, "settings": asdict(self._settings)}
        answer, payload = self._ask(
            request, data, lambda answer: side * side * 3 if fixed else _pixel_bytes(answer, side)
        )
        shape = (side, side) if fixed else (int(answer["rows"]), int(answer["columns"]))
        square = np.frombuffer(payload, np.uint8).reshape(*shape, 3)
        width, height = int(answer["width"]), int(answer["height"])
        perceptual_hash = bytes.fromhex(answer["perceptual_hash"])
        return DecodedImage(square, width, height, perceptual_hash, _checked(answer["annotation"]))

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Encode an image as a small JPEG."""
        request = {"at_least": side, "side": side, "jpeg": True}
        _, payload = self._ask(request, data, _thumbnail_bytes)
        return bytes(payload)

    def pixels(self, data: bytes, side: int) -> UInt8[np.ndarray, "H W 3"]:
        """Decode an image to small RGB pixels."""
        request = {"at_least": side, "side": side}
        answer, payload = self._ask(request, data, lambda answer: _pixel_bytes(answer, side))
        rows, columns = int(answer["rows"]), int(answer["columns"])
        return np.frombuffer(payload, np.uint8).reshape(rows, columns, 3)

    def close(self) -> None:
        """End the processes, after the images that are being decoded."""
        for _ in range(self._count):
            if (process := self._free.get()) is not None:
                process.kill()

    def _ask(
        self,
        request: Mapping[str, Any],
        data: bytes,
        answer_size: Callable[[dict[str, Any]], int],
    ) -> tuple[dict[str, Any], bytearray]:
        """Decode an image; large ones are decoded one after the other, which bounds memory."""
        share = self._max_pixels // self._count
        try:
            return self._ask_free({**request, "max_pixels": share}, data, answer_size)
        except DataError as error:
            if error.reason != "too_large" or self._count == 1:
                raise
        try:
            with self._large:
                whole = {**request, "max_pixels": self._max_pixels}
                return self._ask_free(whole, data, answer_size)
        except queue.Full:
            raise ServiceError(
                "the service is overloaded: too many large images wait",
                status=503,
                code="overloaded",
                retry_after_s=5,
            ) from None

    def _ask_free(
        self,
        request: Mapping[str, Any],
        data: bytes,
        answer_size: Callable[[dict[str, Any]], int],
    ) -> tuple[dict[str, Any], bytearray]:
        with self._turns:
            return self._ask_next(request, data, answer_size)

    def _ask_next(
        self,
        request: Mapping[str, Any],
        data: bytes,
        answer_size: Callable[[dict[str, Any]], int],
    ) -> tuple[dict[str, Any], bytearray]:
        process = self._free.get()
        died: WorkerDiedError | None = None
        try:
            # A process that was killed from outside has not seen the image to its end.
            for _ in range(2):
                if process is None or not process.alive:
                    if process is not None:
                        process.kill()
                    process = self._start()
                try:
                    return process.ask(request, data, answer_size)
                except WorkerDiedError as error:
                    died = error
        finally:
            self._free.put(process)
        raise DataError(
            f"the image of {len(data):,} bytes cannot be decoded: the decoder process {died}",
            reason="corrupt",
        ) from died

    def _start(self) -> WorkerProcess:
        return WorkerProcess(max_pixels=self._max_pixels, timeout_s=self._timeout_s)


def _pixel_bytes(header: dict[str, Any], side: int) -> int:
    rows, columns = int(header["rows"]), int(header["columns"])
    if not (0 < rows <= side and 0 < columns <= side):
        raise ValueError(f"{rows} x {columns} pixels")
    return rows * columns * 3


def _checked(given: Mapping[str, Any]) -> Annotation:
    """Convert the metadata of an image; none if a damaged image made them unusable."""
    caption, fields = str(given["caption"]), {name: given[name] for name in ("tags", "time")}
    found = Annotation.of([caption] if caption else [], dict(given["metadata"]) | fields)
    fault = storage_error("", caption, found.metadata, tags=found.tags, time=found.time)
    return Annotation() if fault else found


def _thumbnail_bytes(header: dict[str, Any]) -> int:
    size = int(header["bytes"])
    if not 0 < size <= _MAX_THUMBNAIL_BYTES:
        raise ValueError(f"{size} bytes")
    return size
