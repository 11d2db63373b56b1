"""Image decoding, resizing and normalization: files, arrays and PIL images to model input.

Dimensions: H, W the image's height and width; S the side of the model's square input, pixels.

An image that cannot be used raises a `DataError` whose `reason` is one of

    missing        no such file, or no permission to read it
    empty          no bytes, or no pixels
    not_an_image   no supported format, or a damaged header
    too_large      more pixels than allowed; checked in the header, before decoding
    truncated      the file ends before the image does
    corrupt        the data are inconsistent
    missing_extra  a HEIF image, and the extra `heif` is not installed
    unsupported    a pixel mode without a defined black and white, or a type that is no image
"""

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from coca.core.config_base import Config
from coca.core.errors import DataError, MissingExtraError
from coca.core.formats import IMAGE_FORMATS_SHOWN
from coca.core.heif import HEAD_BYTES, formats_of
from coca.processing.decoder_warnings import decoder_warnings_ignored

ImageSource: TypeAlias = bytes | str | Path | Image.Image | NDArray[Any]
"""File content, a path, a PIL image, or uint8 pixels (H, W), (H, W, 1), (H, W, 3), (H, W, 4)."""

Stream: TypeAlias = io.BytesIO | io.BufferedReader

MAX_SIDE_PX = 65_535
"""The limit of JPEG. Resizing longer strips is slow and takes much memory."""

# EXIF orientation -> transpose operation that turns the stored image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 274

_FAST_DECODER = "torchvision.io"


# Largest aspect ratio before an image is cropped; resizing a longer one would exhaust memory.
_MAX_ASPECT_RATIO = 256

TRIM_TOLERANCE = 12
"""Largest difference of an empty border from its corner, in grey levels (0 to 255)."""


def decode(
    source: ImageSource, *, max_pixels: int = 50_000_000, at_least: int | None = None
) -> UInt8[Tensor, "3 H W"]:
    """Decode an image to upright RGB pixels, 0 to 255.

    EXIF orientation is applied, and transparency is blended with white. 16-bit gray keeps its high
    byte, as Pillow does for 16-bit colour. The first frame of an animation is decoded. Colour
    profiles are not applied. Float arrays are rejected, since their value of white is ambiguous.

    Args:
        source: See `ImageSource`. URLs are not fetched.
        max_pixels: Largest height times width; no effect above Pillow's own limit.
        at_least: Minimum side, pixels. A JPEG of twice that may be decoded faster at a half,
            a quarter or an eighth of its size. None: full resolution.

    Raises:
        DataError: The image cannot be used; the module docstring lists the reasons.
    """
    if not isinstance(source, bytes | str | Path | Image.Image | np.ndarray):
        raise DataError(
            f"an image must be a path, the bytes of a file, a PIL image or an array, "
            f"got a {type(source).__name__}",
            reason="unsupported",
        )
    if isinstance(source, bytes) and hasattr(sys.modules.get(_FAST_DECODER), "decode_webp"):
        from coca.processing.webp import decode_plain_webp

        plain = decode_plain_webp(source, max_pixels=max_pixels)
        if plain is not None:
            return plain
    name = _name(source)
    try:
        with decoder_warnings_ignored(), _opened(source, name) as (image, stream):
            _check_size(image, name, max_pixels)
            orientation = _orientation(image)
            if stream is not None:
                if at_least is not None and min(image.size) >= 2 * at_least:
                    # No effect on other formats than JPEG.
                    image.draft(None, (at_least, at_least))
                elif orientation not in _UPRIGHT:
                    pixels = _decode_plain_jpeg(image, stream)
                    if pixels is not None:
                        return pixels
            rgb = _rgb(image, name)
            # Read again: Pillow applies the orientation of a TIFF while loading it.
            turn = _UPRIGHT.get(_orientation(image))
            if turn is not None:
                rgb = rgb.transpose(turn)
            return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: {error}", reason="too_large") from error
    except Exception as error:
        # On damaged files Pillow raises nearly any exception, including SyntaxError.
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise DataError(f"{name} is {reason}: {error}", reason=reason) from error


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"the image of {len(source):,} bytes"
    if isinstance(source, str | Path):
        # File names need not be valid Unicode, but an error message must be.
        return str(source)[-300:].encode("utf-8", "backslashreplace").decode()
    kind = "array" if isinstance(source, np.ndarray) else "PIL image"
    return f"the {kind} of size {getattr(source, 'shape', None) or source.size}"


@contextmanager
def _opened(source: ImageSource, name: str) -> Iterator[tuple[Image.Image, Stream | None]]:
    """Open an image lazily; yield it with its file stream, if it has one."""
    if isinstance(source, Image.Image):
        yield source, None
        return
    if isinstance(source, np.ndarray):
        yield _from_array(source, name), None
        return
    with io.BytesIO(source) if isinstance(source, bytes) else _open_file(source, name) as stream:
        head = stream.read(HEAD_BYTES)
        if not head:
            raise DataError(f"{name} is empty", reason="empty")
        stream.seek(0)
        try:
            image = Image.open(stream, formats=formats_of(head))
        except MissingExtraError as error:
            raise DataError(f"{name} is a HEIF image: {error}", reason="missing_extra") from error
        except UnidentifiedImageError as error:
            raise DataError(
                f"{name} is not a {IMAGE_FORMATS_SHOWN} image, or its header is damaged",
                reason="not_an_image",
            ) from error
        with image:
            yield image, stream


def _open_file(path: str | Path, name: str) -> Stream:
    try:
        # Pipes and devices may block forever or have no end.
        if not Path(path).is_file():
            raise DataError(f"{name} is not a file", reason="missing")
        return Path(path).open("rb")
    except OSError as error:
        problem = error.strerror or error
        raise DataError(f"{name} cannot be read: {problem}", reason="missing") from error


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise DataError(
            f"{name} holds {array.dtype}; pixels must be uint8 from 0 (black) to 255 (white)",
            reason="unsupported",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(
            f"{name} is no image; its shape must be (height, width) or (height, width, 3 or 4)",
            reason="unsupported",
        )
    if array.size == 0:
        raise DataError(f"{name} is empty", reason="empty")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"{name} is empty: {width} x {height} pixels", reason="empty")
    if width * height > max_pixels or max(width, height) > MAX_SIDE_PX:
        raise DataError(
            f"{name} is too large: {width:,} x {height:,} pixels, but at most {max_pixels:,} "
            f"in all and {MAX_SIDE_PX:,} a side are read",
            reason="too_large",
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # Damaged metadata do not make an image unusable.
        return 1


def expect_many() -> None:
    """Load the decoders of torchvision: up to 1.5x as fast for JPEG and WebP; takes 2 s once."""
    importlib.import_module(_FAST_DECODER)


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


def _rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    if image.mode.startswith("I;16"):
        gray = np.asarray(image) >> 8
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise DataError(
            f"{name} has pixels of the kind {image.mode!r}, which have no agreed black and "
            "white; save it with 8 or 16 bits a channel",
            reason="unsupported",
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def trimmed(pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
    """Crop the empty border of an image and pad the rest to a square in the border's colour.

    The square keeps the aspect ratio when the image is resized. A uniform image is unchanged.
    """
    corner = pixels[:, :1, :1]
    # Scaling and compression leave borders that are only nearly uniform.
    drawn = ((pixels.short() - corner.short()).abs() > TRIM_TOLERANCE).any(0)
    rows, columns = drawn.any(1).nonzero().flatten(), drawn.any(0).nonzero().flatten()
    if not len(rows):
        return pixels
    top, left = int(rows[0]), int(columns[0])
    inner = pixels[:, top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    height, width = inner.shape[1:]
    side = max(height, width)
    square = corner.repeat(1, side, side)
    y, x = (side - height) // 2, (side - width) // 2
    square[:, y : y + height, x : x + width] = inner
    return square


@dataclass(frozen=True, kw_only=True)
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


class ImageTransform:
    """Deterministic transform of pixels of any size to the model's input."""

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        self._mean = torch.tensor(config.mean).view(3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(config.std).view(3, 1, 1) * 255)

    def read(self, source: ImageSource) -> UInt8[Tensor, "3 H W"]:
        """Decode an image; at reduced resolution if the configuration allows it."""
        return decode(source, at_least=self.config.image_size if self.config.reduced else None)

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
        side = self.config.image_size
        height, width = pixels.shape[1:]
        short = min(height, width)
        if max(height, width) > _MAX_ASPECT_RATIO * short:
            cut = _MAX_ASPECT_RATIO * short
            top, left = max(0, (height - cut) // 2), max(0, (width - cut) // 2)
            pixels = pixels[:, top : top + cut, left : left + cut]
            height, width = pixels.shape[1:]
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        size = (side * width // short, side * height // short)
        small = image.resize(size, Image.Resampling[self.config.interpolation.upper()])
        left, top = (round((length - side) / 2) for length in size)
        square = small.crop((left, top, left + side, top + side))
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
        return values.sub_(self._mean.to(values.device)).mul_(self._scale.to(values.device))
