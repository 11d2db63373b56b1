"""Decoding of image files with Pillow, without torch: any source to upright RGB pixels.

`coca.processing.image` decodes by the same rules, and lists the reasons of errors. Files that are
not images are passed to the decoders of plug-ins.

Dimensions: H, W the image's height and width; h, w of a part.
"""

import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from coca.core.errors import ConfigError, DataError, MissingExtraError
from coca.core.extras import require
from coca.core.files.formats import HEAD_BYTES, IMAGE_FORMATS_SHOWN, formats_of, is_raw
from coca.core.registry import Registry

# Thread-safe suppression of the warnings of image decoders.


_lock = threading.Lock()
_readers = 0
_filters = ExitStack()
_large = threading.Lock()
"""Taken while an image above `REDUCED_PIXELS` is loaded."""


@contextmanager
def decoder_warnings_ignored() -> Iterator[None]:
    """Ignore warnings of decoders, so that decoding does not depend on warning filters.

    Pillow's warning about decompression bombs is covered by our lower limit. From 0.29 on,
    torchvision warns that its decoders are deprecated; without them Pillow decodes everything.

    Warning filters are global to the interpreter. Therefore the first reader changes them and the
    last reader restores them; separate contexts in threads would restore each other's filters.
    """
    global _readers
    with _lock:
        _readers += 1
        if _readers == 1:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("ignore", module=r"torchvision\.io\.")
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.close()


def _reset() -> None:
    """Reset the state in a forked process, which has no other readers and no held lock."""
    global _lock, _readers, _filters, _large
    _lock, _readers, _filters, _large = threading.Lock(), 0, ExitStack(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


ImageInput: TypeAlias = bytes | str | Path | Image.Image | NDArray[Any]
"""File content, a path, a PIL image, or uint8 pixels (H, W), (H, W, 1), (H, W, 3), (H, W, 4)."""

Stream: TypeAlias = io.BytesIO | io.BufferedReader


def reading_threads(images: Sequence[object]) -> int:
    """Return the number of threads that read images: one for each core, or one for PIL images.

    Decoding releases the GIL, so threads suffice. A PIL image loads its pixels when they are first
    read, and the same one may be in the list twice.
    """
    opened = any(isinstance(image, Image.Image) for image in images)
    return 1 if opened else os.cpu_count() or 1


REDUCED_PIXELS = 50_000_000
"""Number of pixels above which an image is reduced by a whole factor, so that no caller reads more.
A JPEG is decoded at a half, a quarter or an eighth of its sides, which takes no more memory."""
MAX_PIXELS = 200_000_000
"""Default limit of decoded pixels: 1.2 GB of memory, and twice that with transparency. Images above
`REDUCED_PIXELS` are decoded one after the other."""
MAX_JPEG_PIXELS = 400_000_000
"""Default limit of a JPEG that is decoded at reduced scale; cameras of phones make 200 million."""
MAX_SIDE_PX = 65_535
"""The limit of JPEG. Resizing longer strips is slow and takes much memory."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image, in pixels."""

TRIM_TOLERANCE = 12
"""Largest difference of an empty border from its corner, in grey levels (0 to 255)."""
MAX_SQUARE_PX = 7_071
"""Largest side of the square that trimming pads to: 50 million pixels, as `REDUCED_PIXELS`."""
_STRIP_PIXELS = 1 << 19
"""Number of pixels that are compared at once: a large image would take five times its size."""

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
_TURNED = (1, 2, 4, 3, 5, 8, 6, 7)
"""EXIF orientation of each `flip` of LibRaw."""


def read_image(
    source: ImageInput,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> Image.Image:
    """Decode an image to upright RGB; see `coca.processing.image.decode`."""
    check_type(source)
    name = image_name(source)
    with image_errors(name), opened(source, name) as (image, stream):
        prepare(image, stream, name, max_pixels=max_pixels, at_least=at_least)
        return upright_rgb(image, name)


def check_type(source: object) -> None:
    """Raise a `DataError` unless the value has the type of an image."""
    if not isinstance(source, bytes | str | Path | Image.Image | np.ndarray):
        raise DataError(
            f"an image must be a path, the bytes of a file, a PIL image or an array, "
            f"got a {type(source).__name__}",
            reason="unsupported",
        )


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Convert all errors of a decoder to a `DataError`."""
    try:
        with decoder_warnings_ignored():
            yield
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        # Pillow checks WebP and the tiles of TIFF itself, before our check can read the size.
        limit = (Image.MAX_IMAGE_PIXELS or 0) * 2 // 1_000_000
        raise DataError(
            f"{name} is too large: the limit for WebP, and for a tile of TIFF, is {limit:,} "
            "megapixels",
            reason="too_large",
        ) from error
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            sentence = f"{name} is too large: it needs more memory than there is"
            raise DataError(sentence, reason="too_large") from error
        # On damaged files Pillow raises nearly any exception, including SyntaxError.
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        # The text of an error of the system has its number and the path of a file.
        shown = error.strerror if isinstance(error, OSError) and error.errno else error
        raise DataError(f"{name} is {reason}: {shown}", reason=reason) from error


def image_name(source: ImageInput) -> str:
    """Describe an image in an error message."""
    if isinstance(source, bytes):
        return f"the image of {len(source):,} bytes"
    if isinstance(source, str | Path):
        # File names need not be valid Unicode, but an error message must be.
        return str(source)[-300:].encode("utf-8", "backslashreplace").decode()
    kind = "array" if isinstance(source, np.ndarray) else "PIL image"
    return f"the {kind} of size {getattr(source, 'shape', None) or source.size}"


@contextmanager
def opened(source: ImageInput, name: str) -> Iterator[tuple[Image.Image, Stream | None]]:
    """Open an image lazily; yield it with its file stream, if it has one."""
    if isinstance(source, Image.Image):
        yield source, None
        return
    if isinstance(source, np.ndarray):
        yield _from_array(source, name), None
        return
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source, name) as stream:
        head = stream.read(HEAD_BYTES)
        if not head:
            raise DataError(f"{name} is empty", reason="empty")
        stream.seek(0)
        if is_raw(head):
            image, preview = _raw_preview(stream, name)
            with image:
                yield image, preview
            return
        try:
            image = _open(stream, formats_of(head))
        except MissingExtraError as error:
            raise DataError(f"{name} is a HEIF image: {error}", reason="missing_extra") from error
        except UnidentifiedImageError as error:
            stream.seek(0)
            decoded = _decoded_by_plugin(stream, name)
            if decoded is None:
                raise DataError(
                    f"{name} is not a {IMAGE_FORMATS_SHOWN} image, or its header is damaged",
                    reason="not_an_image",
                ) from error
            yield decoded, None
            return
        with image:
            yield image, stream


def _open(stream: Stream, formats: Sequence[str]) -> Image.Image:
    """Open an image as Pillow does, but leave the limit of its pixels to `prepare`."""
    try:
        return Image.open(stream, formats=tuple(formats))
    except Image.DecompressionBombError:
        # At reduced scale a JPEG above Pillow's limit takes little memory; errors need the size.
        stream.seek(0)
        head = stream.read(16)
        for factory, accept in map(Image.OPEN.__getitem__, formats):
            if accept is None or accept(head) is True:
                stream.seek(0)
                return factory(stream, "")
        raise


FileDecoder: TypeAlias = Callable[[Stream, str], Image.Image | None]
"""(content, its name in messages) -> RGB image; None for a file of another kind."""

DECODERS: Registry[FileDecoder] = Registry("file decoder", "decoders")
"""Decoders of files that are not images, by file suffix; all are tried in turn."""


def _decoded_by_plugin(stream: Stream, name: str) -> Image.Image | None:
    """Decode a file that is not an image with the decoders of plug-ins."""
    tried: list[FileDecoder] = []
    for suffix in DECODERS.names():
        try:
            decoder = DECODERS.get(suffix)
        except ConfigError as error:
            if name.lower().endswith(suffix):
                raise DataError(f"{name}: {error}", reason="missing_extra") from error
            continue
        if decoder in tried:
            continue
        tried.append(decoder)
        stream.seek(0)
        if (image := decoder(stream, name)) is not None:
            return image
    return None


def _raw_preview(stream: Stream, name: str) -> tuple[Image.Image, Stream | None]:
    """Read the preview that a camera puts into a raw photo, turned as the photo is."""
    try:
        rawpy = require("rawpy", extra="raw")
    except MissingExtraError as error:
        raise DataError(f"{name} is a raw photo: {error}", reason="missing_extra") from error
    try:
        with rawpy.imread(stream) as photo:
            sizes, found = photo.sizes, photo.extract_thumb()
    except rawpy.LibRawError as error:
        raise DataError(
            f"{name} is a raw photo whose preview cannot be read: convert it to JPEG",
            reason="unsupported",
        ) from error
    if found.format == rawpy.ThumbFormat.JPEG:
        preview = io.BytesIO(found.data)
        image = _open(preview, ("JPEG",))
    else:
        preview, image = None, Image.fromarray(found.data)
        # A JPEG without Exif gets it from LibRaw.
        image.getexif()[_EXIF_ORIENTATION] = _TURNED[sizes.flip]
    if _orientation(image) == 1:
        # LibRaw does not turn some photos, such as those that another program has turned.
        stream.seek(0)
        turned = raw_tags(stream.read()).get(_EXIF_ORIENTATION, 1)
        image.getexif()[_EXIF_ORIENTATION] = turned
    return image, preview


def raw_tags(data: bytes) -> Image.Exif:
    """Read the tags of a raw photo that is a TIFF file; none of others."""
    tags = Image.Exif()
    with suppress(Exception):
        # Olympus and Panasonic write magic numbers of their own.
        magic = {b"II": b"II*\0", b"MM": b"MM\0*"}[data[:2]]
        tags.load_from_fp(io.BytesIO(magic + data[4:]))
    return tags


def open_file(path: str | Path, name: str) -> io.BufferedReader:
    """Open a regular file, called `name` in messages."""
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
            f"{name} contains {array.dtype}; pixels must be uint8 from 0 (black) to 255 (white)",
            reason="unsupported",
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(
            f"{name} is not an image; its shape must be (height, width) or (height, width, 3 or 4)",
            reason="unsupported",
        )
    if array.size == 0:
        raise DataError(f"{name} is empty", reason="empty")
    return Image.fromarray(np.ascontiguousarray(array))


def prepare(
    image: Image.Image,
    stream: Stream | None,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
) -> bool:
    """Check the size in the header, and let a JPEG be decoded at a fraction of its size.

    Args:
        image: The image, not loaded yet.
        stream: Its file; None for an image in memory.
        name: The image in messages.
        max_pixels: Limit of decoded pixels; of a JPEG, those at its reduced scale.
        at_least: Minimum of the shorter side of the fraction, in pixels; None: full size up to
            `REDUCED_PIXELS`.

    Returns:
        Whether a fraction will be decoded.

    Raises:
        DataError: The image has no pixels or too many.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"{name} is empty: {width} x {height} pixels", reason="empty")
    kind, limit = image.format or "images in memory", max_pixels
    is_reduced = False
    if stream is not None and kind in ("JPEG", "MPO"):
        _draft(image, at_least)
        is_reduced = image.size != (width, height)
        kind = "JPEG"
        if is_reduced and image.width * image.height <= max_pixels < width * height:
            if _is_sequential(stream):
                limit = max(MAX_JPEG_PIXELS, max_pixels)
            else:
                kind = "progressive JPEG"
    sides = f"{name} is too large: {width:,} x {height:,} pixels"
    if width * height > limit:
        # Rounded up, so that it exceeds the limit also in print.
        count = math.ceil(width * height / 100_000) / 10
        raise DataError(
            f"{sides} are {count:,.10g} megapixels; the limit for {kind} is {limit / 1e6:,.10g}",
            reason="too_large",
        )
    if max(width, height) > MAX_SIDE_PX:
        raise DataError(f"{sides}; the limit of a side is {MAX_SIDE_PX:,}", reason="too_large")
    return is_reduced


def _draft(image: Image.Image, at_least: int | None) -> None:
    """Select the scale of a JPEG: the smallest above `at_least` pixels, if that is given."""
    width, height = image.size
    scale = next((s for s in (1, 2, 4) if _reduced_pixels(image, s) <= REDUCED_PIXELS), 8)
    if at_least is not None and min(width, height) >= max(scale, 2) * at_least:
        image.draft(None, (at_least, at_least))
    elif scale > 1:
        image.draft(None, (max(1, width // scale), max(1, height // scale)))


def _reduced_pixels(image: Image.Image, factor: int) -> int:
    return -(-image.width // factor) * -(-image.height // factor)


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame (SOF); 0xC0 and 0xC1 are sequential with Huffman codes."""
_SCAN = 0xDA


def _is_sequential(stream: Stream) -> bool:
    """Return whether a JPEG is decoded row by row; the stream's position is unchanged.

    The coefficients of progressive files, and of files with a scan for each channel, are all in
    memory, up to 8 bytes for each pixel of the full size.
    """
    position = stream.tell()
    try:
        stream.seek(2)
        channels = 0
        while len(head := stream.read(4)) == 4 and head[0] == 0xFF:
            if head[1] == 0xFF:
                # Any marker may begin with fill bytes.
                stream.seek(-3, os.SEEK_CUR)
                continue
            body = stream.read(int.from_bytes(head[2:], "big") - 2)
            if head[1] in _FRAMES:
                if head[1] > 0xC1:
                    return False
                channels = body[5]
            elif head[1] == _SCAN:
                return body[0] == channels
        return False
    except (IndexError, ValueError):
        return False
    finally:
        stream.seek(position)


def size_of(source: ImageInput) -> tuple[int, int]:
    """Return width and height of an image at its full size, upright, in pixels."""
    name = image_name(source)
    with image_errors(name), opened(source, name) as (image, _):
        return upright_size(image)


def is_turned(image: Image.Image) -> bool:
    """Return whether the stored pixels are not upright."""
    return _orientation(image) in _UPRIGHT


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height after the EXIF orientation; the image must not be loaded yet."""
    width, height = image.size
    # From 5 on, the image is rotated by 90 degrees.
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # Damaged metadata do not make an image unusable.
        return 1


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Load an image, blend it with white, and apply its EXIF orientation.

    Above `REDUCED_PIXELS`, its sides are divided by a whole number.
    """
    with _large if _pixels_in_memory(image) > REDUCED_PIXELS else nullcontext():
        rgb = _rgb(image, name)
    # Read again: Pillow applies the orientation of a TIFF while loading it.
    turn = _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _pixels_in_memory(image: Image.Image) -> int:
    """Count the pixels that decoding keeps: of progressive JPEG files at their full size."""
    configuration = getattr(image, "decoderconfig", None)
    scale = configuration[0] if configuration and "progressive" in image.info else 1
    return image.width * image.height * scale**2


def _rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    if image.mode.startswith("I;16"):
        gray = np.asarray(image) >> 8
        return _reduced(Image.fromarray(gray.astype(np.uint8))).convert("RGB")
    if image.mode in ("I", "F", "LAB"):
        raise DataError(
            f"{name} has pixels of the kind {image.mode!r}, which have no agreed black and "
            "white; save it with 8 or 16 bits a channel",
            reason="unsupported",
        )
    if not image.has_transparency_data:
        # Palettes and others cannot be averaged.
        is_plain = image.mode in ("L", "RGB", "CMYK")
        return _reduced(image if is_plain else image.convert("RGB")).convert("RGB")
    image = _reduced(image.convert("RGBA"))
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _reduced(image: Image.Image) -> Image.Image:
    factor = 1
    while _reduced_pixels(image, factor) > REDUCED_PIXELS:
        factor += 1
    return image if factor == 1 else image.reduce(factor)


def trim_border(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Crop the empty border of an image and pad the rest to a square in the border's colour.

    The square keeps the aspect ratio when the image is resized. A uniform image is unchanged.
    """
    box = drawn_box(pixels)
    if box is None:
        return pixels
    left, top, right, bottom = box
    drawn = pixels[top:bottom, left:right]
    if max(drawn.shape) > MAX_SQUARE_PX:
        drawn = np.asarray(shortened(Image.fromarray(drawn)))
    height, width = drawn.shape[:2]
    x0, y0, x1, y1 = square_around((0, 0, width, height))
    square = np.tile(pixels[:1, :1], (y1 - y0, x1 - x0, 1))
    square[-y0 : height - y0, -x0 : width - x0] = drawn
    return square


def shortened(image: Image.Image) -> Image.Image:
    """Divide the sides of an image by a whole number, so that none is above `MAX_SQUARE_PX`.

    A square around the screenshot of a long page would need gigabytes.
    """
    factor = -(-max(image.size) // MAX_SQUARE_PX)
    if factor == 1:
        return image
    width, height = (-(-side // factor) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def drawn_box(
    pixels: UInt8[np.ndarray, "H W 3"], corner: UInt8[np.ndarray, "1 1 3"] | None = None
) -> Box | None:
    """Find what is not the empty border.

    Returns:
        Left, top, right and bottom in pixels; None for a uniform image.
    """
    corner = pixels[:1, :1] if corner is None else corner
    height, width = pixels.shape[:2]
    # Scaling and compression leave borders that are only nearly uniform.
    border = corner.ravel().astype(np.int16)
    least, most = (
        np.tile(limit.clip(0, 255).astype(np.uint8), width)
        for limit in (border - TRIM_TOLERANCE, border + TRIM_TOLERANCE)
    )
    in_row, in_column = np.zeros(height, bool), np.zeros(width, bool)
    step = max(1, _STRIP_PIXELS // max(1, width))
    for top in range(0, height, step):
        numbers = pixels[top : top + step].reshape(-1, 3 * width)
        drawn = (numbers < least) | (numbers > most)
        in_row[top : top + step] = drawn.any(axis=1)
        in_column |= drawn.any(axis=0).reshape(width, 3).any(axis=1)
    rows, columns = in_row.nonzero()[0], in_column.nonzero()[0]
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def square_around(box: Box) -> Box:
    """Extend a box to a square with the same centre; its sides may be outside of the image."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    left -= (side - (right - left)) // 2
    top -= (side - (bottom - top)) // 2
    return left, top, left + side, top + side
