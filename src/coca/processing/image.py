"""Image decoding, resizing and normalization: files, arrays and PIL images to model input.

Dimensions: H, W the image's height and width; S the side of the model's square input, pixels.

An image that cannot be used raises a `DataError` whose `reason` is one of

    missing        no such file, or no permission to read it
    empty          no bytes, or no pixels
    not_an_image   no supported format, or a damaged header
    too_large      more pixels than allowed; checked in the header, before decoding
    truncated      the file ends before the image does
    corrupt        the data are inconsistent
    missing_extra  a HEIF image or a raw photo, and the extra `heif` or `raw` is not installed
    unsupported    a pixel mode without a defined black and white, a raw photo without a preview, or
                   a type that is not an image
"""

import importlib
import sys
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from coca.core.config.frozen_config import Config
from coca.processing.image_file import (
    MAX_PIXELS,
    REDUCED_PIXELS,
    ImageInput,
    Stream,
    check_type,
    decoder_warnings_ignored,
    image_errors,
    image_name,
    is_turned,
    opened,
    prepare,
    trim_border,
    upright_rgb,
)
from coca.processing.preprocess import ImageSettings, resize_shortest

_FAST_DECODER = "torchvision.io"


def decode(
    source: ImageInput,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> UInt8[Tensor, "3 H W"]:
    """Decode an image to upright RGB pixels, 0 to 255.

    Above 50 million pixels, the sides are divided by a whole number, and a JPEG is decoded at a
    half, a quarter or an eighth. EXIF orientation is applied, and transparency is blended with
    white. 16-bit gray keeps its high byte, as Pillow does for 16-bit colour. The first frame of an
    animation is decoded. Colour profiles are not applied. Float arrays are rejected, since their
    value of white is ambiguous.

    Args:
        source: A path, the bytes of a file, a PIL image or an array.
        max_pixels: Maximum number of decoded pixels. A JPEG may have 400 million, unless it is
            progressive.
        at_least: Minimum of the shorter side of a JPEG that is decoded at reduced scale, in pixels;
            default: the full size, up to 50 million pixels.
    """
    check_type(source)
    if isinstance(source, bytes):
        plain = decode_plain_webp(source, max_pixels=min(max_pixels, REDUCED_PIXELS))
        if plain is not None:
            return plain
    name = image_name(source)
    with image_errors(name), opened(source, name) as (image, stream):
        is_reduced = prepare(image, stream, name, max_pixels=max_pixels, at_least=at_least)
        if stream is not None and not is_reduced and not is_turned(image):
            pixels = _decode_plain_jpeg(image, stream)
            if pixels is not None:
                return pixels
        return torch.from_numpy(np.array(upright_rgb(image, name))).permute(2, 0, 1)


def expect_many() -> None:
    """Load the decoders of torchvision: up to 1.5x as fast for JPEG and WebP; takes 2 s once."""
    importlib.import_module(_FAST_DECODER)


# Layout: "RIFF", 4 bytes of size, "WEBP", name and size of the first chunk, a frame tag of 3 bytes,
# the start code, and both sides in 14 bits each (RFC 9649, section 2.5; RFC 6386, section 9.1).
_CHUNK = slice(8, 16)
_PLAIN = b"WEBPVP8 "
_START_CODE, _WIDTH, _HEIGHT = slice(23, 26), slice(26, 28), slice(28, 30)


def decode_plain_webp(content: bytes, *, max_pixels: int) -> UInt8[Tensor, "3 H W"] | None:
    """Decode a simple WebP file (VP8 without extensions) with torchvision, if that is loaded.

    The pixels equal those of Pillow, in 3/4 of the time; memory layout (H, W, 3).

    Returns None where Pillow is needed: other formats, transparency, animations, metadata that may
    rotate the image, too many pixels, or damage.
    """
    decoder = sys.modules.get(_FAST_DECODER)
    if decoder is None or not hasattr(decoder, "decode_webp"):
        return None
    if content[_CHUNK] != _PLAIN or content[_START_CODE] != b"\x9d\x01\x2a":
        return None
    width, height = (int.from_bytes(content[at], "little") & 0x3FFF for at in (_WIDTH, _HEIGHT))
    if width * height > max_pixels:
        return None
    try:
        # A copy, since torch warns about read-only memory.
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with decoder_warnings_ignored():
            return decoder.decode_webp(data, mode=decoder.ImageReadMode.RGB)
    except RuntimeError:
        return None


def _decode_plain_jpeg(image: Image.Image, stream: Stream) -> UInt8[Tensor, "3 H W"] | None:
    """Decode a JPEG with torchvision, equal to Pillow but faster; None where Pillow is needed.

    The memory layout of the result is (H, W, 3), which is also the fastest one for resizing.
    """
    # Not imported for a single image: Pillow decodes a thousand images in that time.
    decoder = sys.modules.get(_FAST_DECODER)
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        return None
    if decoder is None or not hasattr(decoder, "decode_jpeg"):
        return None
    stream.seek(0)
    content = torch.frombuffer(bytearray(stream.read()), dtype=torch.uint8)
    try:
        pixels: Tensor = decoder.decode_jpeg(content, mode=decoder.ImageReadMode.RGB)
    except RuntimeError:
        stream.seek(0)
        return None
    return pixels


def trimmed(pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
    """Crop the empty border of an image and pad the rest to a square; see `trim_border`."""
    square = trim_border(pixels.permute(1, 2, 0).numpy())
    return torch.from_numpy(square).permute(2, 0, 1)


class ImageConfig(Config):
    """Configuration of the image transform."""

    image_size: PositiveInt
    """Side of the square input, pixels."""

    resize: Literal["squash", "crop", "pad", "shortest"] = "squash"
    """How an image becomes square: stretched, center-cropped, or padded with white. `shortest`
    resizes the shorter side, then center-crops, bit-exact to CLIP's preprocessing."""

    trim: bool = False
    """Crop an empty border before resizing, such as around icons and product images. The border is
    the region with the colour of the upper left corner."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Channel means that are subtracted, where 0 is black and 1 is white."""

    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.5, 0.5, 0.5)
    """Channel standard deviations to divide by; each above 0."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Resampling filter; always antialiased."""

    reduced: bool = False
    """Decode large JPEG files at a half, a quarter or an eighth of their size: two to three times
    as fast, with a difference of about half a grey level."""

    def settings(self, *, resampler: Literal["torch", "pillow"]) -> ImageSettings:
        """Return the values for a process without torch."""
        return ImageSettings(**self.model_dump(), resampler=resampler)


class ImageTransform:
    """Deterministic transform of pixels of any size to the model's input."""

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        self._mean = torch.tensor(config.mean).view(3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(config.std).view(3, 1, 1) * 255)

    def read(self, source: ImageInput) -> UInt8[Tensor, "3 H W"]:
        """Decode an image; at reduced resolution if the configuration allows it."""
        config = self.config
        at_least = config.image_size if config.reduced else None
        return decode(source, at_least=at_least)

    def __call__(self, pixels: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "3 S S"]:
        """Trim (if configured), resize and normalize an image."""
        return self.normalize(self.square(pixels))

    def square(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        """Trim (if configured) and resize an image; pixels stay 0 to 255."""
        return self.resize(self.trim(pixels))

    def trim(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """Crop the empty border, if configured."""
        return trimmed(pixels) if self.config.trim else pixels

    def resize(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        """Resize an image to the model's square input; pixels stay 0 to 255."""
        side = self.config.image_size
        height, width = pixels.shape[1:]
        if self.config.resize == "shortest":
            return self._shortest(pixels)
        if self.config.resize == "pad":
            scale = side / max(height, width)
            small = self.resample(
                pixels, max(1, round(height * scale)), max(1, round(width * scale))
            )
            top, left = (side - small.shape[1]) // 2, (side - small.shape[2]) // 2
            right, bottom = side - small.shape[2] - left, side - small.shape[1] - top
            return F.pad(small, (left, right, top, bottom), value=255)
        if self.config.resize == "crop":
            # Crop before resizing: the result is equal, and the ends of a long strip cost nothing.
            cut = min(height, width)
            top, left = (height - cut) // 2, (width - cut) // 2
            pixels = pixels[:, top : top + cut, left : left + cut]
        return self.resample(pixels, side, side)

    def _shortest(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        """Resize with Pillow, since torch's 16-bit weights differ in some pixels by one level."""
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        filter = Image.Resampling[self.config.interpolation.upper()]
        square = resize_shortest(image, self.config.image_size, filter)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)

    def resample(
        self, pixels: UInt8[Tensor, "3 H W"], height: int, width: int
    ) -> UInt8[Tensor, "3 h w"]:
        """Resample an image to any size, ignoring its aspect ratio."""
        # In uint8: 3 to 8 times as fast as in float, with a difference of at most one grey level.
        return F.interpolate(
            pixels[None], (height, width), mode=self.config.interpolation, antialias=True
        )[0]

    def normalize(
        self, pixels: UInt8[Tensor, "*B 3 S S"] | Float[Tensor, "*B 3 S S"]
    ) -> Float[Tensor, "*B 3 S S"]:
        """Normalize pixels (0 to 255) by mean and standard deviation, on their own device."""
        values = pixels.to(torch.float32, copy=True)
        # Non-blocking: a plain copy to a GPU waits for all that it computes.
        mean, scale = (it.to(values.device, non_blocking=True) for it in (self._mean, self._scale))
        return values.sub_(mean).mul_(scale)
