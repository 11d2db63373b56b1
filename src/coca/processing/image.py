"""Pictures in: any file, array or PIL image becomes RGB pixels, and those the model's input.

Axis letters: H, W the image's height and width; S the side of the model's square input, pixels.

An image that cannot be used raises a `DataError` whose `reason` is one of

    missing        no such file, or the system does not let us read it
    empty          no bytes, or no pixels
    not_an_image   none of the formats below, or a header too damaged to tell
    too_large      more pixels than allowed; known from the header, before anything is decoded
    truncated      the file ends before the image does
    corrupt        the data contradict themselves
    missing_extra  a HEIF image, and the extra `heif` is not installed
    unsupported    a kind of pixel without an agreed black and white, or no kind of image at all
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
from torch import Tensor

from coca.core.errors import ConfigError, DataError, MissingExtraError
from coca.core.formats import IMAGE_FORMATS_SHOWN
from coca.core.heif import HEAD_BYTES, formats_of
from coca.processing.suppress_native_stderr import decoder_warnings_ignored

ImageSource: TypeAlias = bytes | str | Path | Image.Image | NDArray[Any]
"""File content, a path, a PIL image, or uint8 pixels (H, W), (H, W, 1), (H, W, 3), (H, W, 4)."""

Stream: TypeAlias = io.BytesIO | io.BufferedReader

MAX_SIDE_PX = 65_535
"""JPEG's own limit. Longer strips are no images, and make resizing slow and hungry."""

# EXIF orientation -> what turns the stored image upright.
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


# Times its width that a strip may be long before it is cut; enlarged as a whole, it fills memory.
_LONGEST_STRIP = 256

TRIM_TOLERANCE = 12
"""Grey levels by which an empty border may differ from its corner."""


def decode(
    source: ImageSource, *, max_pixels: int = 50_000_000, at_least: int | None = None
) -> UInt8[Tensor, "3 H W"]:
    """The image as upright RGB pixels, 0 to 255.

    EXIF orientation is applied, transparency is laid on white, 16-bit gray keeps its high byte (as
    Pillow does for 16-bit colour), and of an animation the first frame is taken. Colour profiles
    are not applied. Float arrays are refused, since whether 1.0 is white or nearly black would be
    a guess.

    Args:
        source: See `ImageSource`. Web addresses are not fetched.
        max_pixels: Largest height times width; above Pillow's own limit it changes nothing.
        at_least: Pixels that each side needs; a JPEG of twice that or more may come out at a half,
            a quarter or an eighth of its size, in less time. None: every image in full.

    Raises:
        DataError: The image cannot be used; the module's head lists the reasons.
    """
    if not isinstance(source, bytes | str | Path | Image.Image | np.ndarray):
        raise DataError(
            f"a {type(source).__name__} is no image; right is a path, the bytes of a file, a PIL "
            "image, or an array",
            reason="unsupported",
        )
    if isinstance(source, bytes) and hasattr(sys.modules.get(_FAST_DECODER), "decode_webp"):
        from coca.processing.webp import decode_plain_webp

        plain = decode_plain_webp(source, max_pixels=max_pixels)
        if plain is not None:
            return plain
    name = _name(source)
    try:
        with decoder_warnings_ignored(), _opened(source, name) as (picture, stream):
            _check_size(picture, name, max_pixels)
            orientation = _orientation(picture)
            if stream is not None:
                if at_least is not None and min(picture.size) >= 2 * at_least:
                    # Without effect on other formats.
                    picture.draft(None, (at_least, at_least))
                elif orientation not in _UPRIGHT:
                    pixels = _decode_plain_jpeg(picture, stream)
                    if pixels is not None:
                        return pixels
            rgb = _rgb(picture, name)
            # Read again: Pillow turns a TIFF by itself while loading it.
            turn = _UPRIGHT.get(_orientation(picture))
            if turn is not None:
                rgb = rgb.transpose(turn)
            return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: {error}", reason="too_large") from error
    except Exception as error:
        # On damaged files Pillow's readers raise nearly anything, SyntaxError included.
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise DataError(f"{name} is {reason}: {error}", reason=reason) from error


def _name(source: ImageSource) -> str:
    if isinstance(source, bytes):
        return f"the image of {len(source):,} bytes"
    if isinstance(source, str | Path):
        # Names on disk need not be valid text, but an error message must be.
        return str(source)[-300:].encode("utf-8", "backslashreplace").decode()
    kind = "array" if isinstance(source, np.ndarray) else "PIL image"
    return f"the {kind} of size {getattr(source, 'shape', None) or source.size}"


@contextmanager
def _opened(source: ImageSource, name: str) -> Iterator[tuple[Image.Image, Stream | None]]:
    """The image with only its header read, and the file behind it if there is one."""
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
            picture = Image.open(stream, formats=formats_of(head))
        except MissingExtraError as error:
            raise DataError(f"{name} is a HEIF image: {error}", reason="missing_extra") from error
        except UnidentifiedImageError as error:
            raise DataError(
                f"{name} is not a {IMAGE_FORMATS_SHOWN} image, or its header is damaged",
                reason="not_an_image",
            ) from error
        with picture:
            yield picture, stream


def _open_file(path: str | Path, name: str) -> Stream:
    try:
        # Pipes and devices may block for ever or never end.
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


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise DataError(f"{name} is empty: {width} x {height} pixels", reason="empty")
    if width * height > max_pixels or max(width, height) > MAX_SIDE_PX:
        raise DataError(
            f"{name} is too large: {width:,} x {height:,} pixels, but at most {max_pixels:,} "
            f"in all and {MAX_SIDE_PX:,} a side are read",
            reason="too_large",
        )


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # Damaged metadata do not make the image unusable.
        return 1


def expect_many() -> None:
    """Make JPEG and WebP files decode up to half as fast again, at the cost of two seconds once."""
    importlib.import_module(_FAST_DECODER)


def _decode_plain_jpeg(picture: Image.Image, stream: Stream) -> UInt8[Tensor, "3 H W"] | None:
    """The same pixels as Pillow's, sooner; None where only Pillow serves.

    The result's memory is laid out as (H, W, 3), which is also what resizing likes best.
    """
    # Never imported for one image: Pillow reads a thousand in that time.
    decoder = sys.modules.get(_FAST_DECODER)
    if picture.format not in ("JPEG", "MPO") or picture.mode not in ("RGB", "L"):
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


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    picture.load()
    if picture.mode.startswith("I;16"):
        gray = np.asarray(picture) >> 8
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F", "LAB"):
        raise DataError(
            f"{name} has pixels of the kind {picture.mode!r}, which have no agreed black and "
            "white; save it with 8 or 16 bits a channel",
            reason="unsupported",
        )
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def trimmed(pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
    """The image without its empty border, made square again in the border's colour.

    Square, so that what is tall stays tall when it is resized. An image that is empty all over
    stays as it is.
    """
    corner = pixels[:, :1, :1]
    # Scaled and compressed images have borders that are only nearly of one colour.
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
class ImageConfig:
    """What the model expects of its images."""

    image_size: int
    """Side of the square input, pixels."""

    resize: Literal["squash", "crop", "pad", "shortest"] = "squash"
    """How an image becomes square: stretched, its middle cut out, or white added; `shortest` cuts
    the middle out of the shrunk image, which is what CLIP does, and to the grey level."""

    trim: bool = False
    """Cut away an empty border before resizing, as stands around icons and products: whatever
    has the colour of the upper left corner."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Value of each channel that becomes 0, where 0 is black and 1 is white."""

    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Difference of each channel from the mean that becomes 1."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How pixels are resampled; always antialiased."""

    reduced: bool = False
    """Read large JPEG files at a half, a quarter or an eighth of their size: two to three times
    faster, and about half a grey level away."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"image_size is {self.image_size}; it must be at least 1 pixel")
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std}; each value must be above 0")


class ImageTransform:
    """Pixels of any size to the model's input; nothing about it is random."""

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        self._mean = torch.tensor(config.mean).view(3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(config.std).view(3, 1, 1) * 255)

    def read(self, source: ImageSource) -> UInt8[Tensor, "3 H W"]:
        """The image's pixels, as `decode` gives them; fewer if the configuration allows that."""
        return decode(source, at_least=self.config.image_size if self.config.reduced else None)

    def __call__(self, pixels: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "3 S S"]:
        """The image, trimmed if so configured, resized and normalised."""
        return self.normalize(self.square(pixels))

    def square(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        """The image, trimmed if so configured and resized, still 0 to 255."""
        return self.resize(self.trim(pixels))

    def trim(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """The image without its empty border, if the configuration asks for that."""
        return trimmed(pixels) if self.config.trim else pixels

    def resize(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        """The image as a square of the model's size, still 0 to 255."""
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
            # Cut before shrinking: the same image, and the sides of a long strip cost nothing.
            cut = min(height, width)
            top, left = (height - cut) // 2, (width - cut) // 2
            pixels = pixels[:, top : top + cut, left : left + cut]
        return self.resample(pixels, side, side)

    def _shortest(self, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        """By Pillow, since torch's weights of 16 bits end a grey level away here and there."""
        side = self.config.image_size
        height, width = pixels.shape[1:]
        short = min(height, width)
        if max(height, width) > _LONGEST_STRIP * short:
            cut = _LONGEST_STRIP * short
            top, left = max(0, (height - cut) // 2), max(0, (width - cut) // 2)
            pixels = pixels[:, top : top + cut, left : left + cut]
            height, width = pixels.shape[1:]
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        size = (side * width // short, side * height // short)
        small = picture.resize(size, Image.Resampling[self.config.interpolation.upper()])
        left, top = (round((length - side) / 2) for length in size)
        square = small.crop((left, top, left + side, top + side))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)

    def resample(
        self, pixels: UInt8[Tensor, "3 H W"], height: int, width: int
    ) -> UInt8[Tensor, "3 h w"]:
        """The image stretched to any size."""
        # In bytes: 3 to 8 times faster than in floats, and at most one grey level away.
        return F.interpolate(
            pixels[None], (height, width), mode=self.config.interpolation, antialias=True
        )[0]

    def normalize(
        self, pixels: UInt8[Tensor, "*B 3 S S"] | Float[Tensor, "*B 3 S S"]
    ) -> Float[Tensor, "*B 3 S S"]:
        """Values from 0 to 255 to the model's scale, wherever the pixels are."""
        values = pixels.to(torch.float32, copy=True)
        return values.sub_(self._mean.to(values.device)).mul_(self._scale.to(values.device))
