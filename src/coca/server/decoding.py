"""Decode images of strangers: model input, metadata and thumbnails from encoded bytes."""

import io
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from coca.core.errors import DataError
from coca.processing.image import ImageTransform, decode
from coca.search.ingest.image_metadata import read_header
from coca.server.images import Box, DecodedImage

THUMBNAIL_QUALITY = 82


@runtime_checkable
class Decoder(Protocol):
    """Decodes encoded images."""

    def decode(self, data: bytes, box: Box | None = None) -> DecodedImage:
        """Decode an image, or a region of it, to the model's input size.

        Raises:
            DataError: It is no image, or exceeds a limit.
        """
        ...

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Encode an image as a JPEG whose longer side has at most `side` pixels.

        Raises:
            DataError: It is no image, or exceeds a limit.
        """
        ...

    def close(self) -> None:
        """Release the resources."""
        ...


class InProcessDecoder:
    """Decodes in the calling thread; for images that are trusted."""

    def __init__(self, transform: ImageTransform, *, max_pixels: int) -> None:
        self._transform = transform
        self._max_pixels = max_pixels

    def decode(self, data: bytes, box: Box | None = None) -> DecodedImage:
        """Decode an image, or a region of it, to the model's input size."""
        transform = self._transform
        reduced = transform.config.image_size if transform.config.reduced and not box else None
        pixels = crop(decode(data, max_pixels=self._max_pixels, at_least=reduced), box)
        square = transform.square(pixels).permute(1, 2, 0).contiguous().numpy()
        header = read_header(data)
        return DecodedImage(square, header.width, header.height, header.time, format_of(data))

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Encode an image as a small JPEG."""
        pixels = decode(data, max_pixels=self._max_pixels, at_least=side)
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
        return stream.getvalue()

    def close(self) -> None:
        """Do nothing: there is no resource."""


def crop(pixels: UInt8[torch.Tensor, "3 H W"], box: Box | None) -> UInt8[torch.Tensor, "3 h w"]:
    """Crop a region, at least one pixel wide and high."""
    if box is None:
        return pixels
    height, width = pixels.shape[1:]
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    return pixels[:, top:bottom, left:right]


def format_of(data: bytes) -> str:
    """Return the name of an image's format, such as `PNG`.

    Raises:
        DataError: It is no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format or ""
    except (OSError, ValueError) as error:
        raise DataError("the image has no known format", reason="not_an_image") from error


def as_tensor(image: DecodedImage) -> UInt8[torch.Tensor, "3 S S"]:
    """Convert decoded pixels to the layout of `Predictor.embed_prepared`."""
    return torch.from_numpy(np.ascontiguousarray(image.square)).permute(2, 0, 1)
