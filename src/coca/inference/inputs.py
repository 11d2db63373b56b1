"""Input types of the predictor: images in any format and texts, one or many."""

from collections.abc import Iterable, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import TypeAlias, cast

from numpy import ndarray
from PIL import Image
from torch import Tensor

from coca.core.errors import DataError

ImageInput: TypeAlias = str | Path | bytes | Image.Image | ndarray
"""A path, the bytes of an encoded file, a PIL image, or a uint8 array of height x width x 3."""

# Single inputs that are iterable: iterating them yields lines, bytes, rows or keys.
_NO_LIST = (str, bytes, bytearray, memoryview, Path, Image.Image, ndarray, Tensor, IOBase, Mapping)


def as_images(images: ImageInput | Iterable[ImageInput]) -> Sequence[ImageInput]:
    """Normalize images to a sequence: wrap a single image, exhaust an iterator.

    A value that is no image raises later, when it is read; that error names its type.
    """
    if isinstance(images, _NO_LIST) or not isinstance(images, Iterable):
        return [cast(ImageInput, images)]
    return cast(Sequence[ImageInput], images) if isinstance(images, Sequence) else list(images)


def as_texts(texts: str | Iterable[str]) -> Sequence[str]:
    """Normalize texts to a sequence: wrap a single text, exhaust an iterator.

    Raises:
        DataError: An item is not a `str`, such as the missing value of a table.
    """
    if isinstance(texts, str):
        return [texts]
    listed = list(texts) if isinstance(texts, Iterable) else [texts]
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise DataError(
                f"text {position} must be a str, got {type(text).__name__} ({text!r:.40})",
                reason="bad_text",
            )
    return listed
