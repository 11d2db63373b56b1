"""Input of the model from a decoded image: trimmed, cropped and resized in a decoder process.

Large images are read in strips, so that no second form of all their pixels is in memory.

Dimensions: H, W height and width of the model's input (pixels).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from coca.processing.image_file import drawn_box, shortened, square_around
from coca.processing.preprocess import ImageSettings, resized
from coca.server.images.decoding.torch_resize import resize_columns, resize_rows

_STRIP_PIXELS = 1 << 19


def model_input(image: Image.Image, settings: ImageSettings) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an RGB image to the input of the model."""
    if settings.trim and (drawn := _drawn_box(image)) is not None:
        image = _trimmed(image, drawn)
    if settings.resize == "shortest" or settings.resampler == "pillow":
        return np.asarray(resized(image, settings))
    side, (width, height) = settings.image_size, image.size
    if settings.resize == "pad":
        scale = side / max(height, width)
        high, wide = max(1, round(height * scale)), max(1, round(width * scale))
        padded = np.full((side, side, 3), 255, np.uint8)
        top, left = (side - high) // 2, (side - wide) // 2
        padded[top : top + high, left : left + wide] = _resized(image, wide, high, settings)
        return padded
    if settings.resize == "crop":
        cut = min(width, height)
        left, top = (width - cut) // 2, (height - cut) // 2
        image = image.crop((left, top, left + cut, top + cut))
    return _resized(image, side, side, settings)


def _resized(
    image: Image.Image, width: int, height: int, settings: ImageSettings
) -> UInt8[np.ndarray, "h w 3"]:
    method = settings.interpolation
    rows = [resize_rows(strip, width, method) for _, strip in _strips(image)]
    return resize_columns(np.concatenate(rows), height, method)


def _drawn_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Find what is not the empty border, as `drawn_box` does."""
    corner = np.asarray(image.crop((0, 0, 1, 1)))
    found: list[tuple[int, int, int, int]] = []
    for top, strip in _strips(image):
        if (box := drawn_box(strip, corner)) is not None:
            found.append((box[0], top + box[1], box[2], top + box[3]))
    if not found:
        return None
    left, right = min(box[0] for box in found), max(box[2] for box in found)
    return left, found[0][1], right, found[-1][3]


def _trimmed(image: Image.Image, drawn: tuple[int, int, int, int]) -> Image.Image:
    """Crop an image to a square around a box, in the colour of its corner; see `trim_border`."""
    color = tuple(np.asarray(image.crop((0, 0, 1, 1)))[0, 0].tolist())
    part = shortened(image.crop(drawn))
    left, top, right, bottom = square_around((0, 0, *part.size))
    square = Image.new("RGB", (right - left, bottom - top), color)
    square.paste(part, (-left, -top))
    return square


def _strips(image: Image.Image) -> Iterator[tuple[int, UInt8[np.ndarray, "h W 3"]]]:
    """Iterate over the first row and the pixels of parts of an image."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        yield top, np.asarray(image.crop((0, top, image.width, bottom)))
