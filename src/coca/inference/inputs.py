"""What people hand in: images of any kind and texts, one or many."""

from collections.abc import Iterable, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import TypeAlias, cast

from numpy import ndarray
from PIL import Image
from torch import Tensor

from coca.core.errors import DataError

Picture: TypeAlias = str | Path | bytes | Image.Image | ndarray
"""A path, an encoded file, a PIL image, or an array of height x width x 3 bytes."""

# They can be iterated over, but what comes out are lines, bytes, rows or keys.
_NO_LIST = (str, bytes, bytearray, memoryview, Path, Image.Image, ndarray, Tensor, IOBase, Mapping)


def as_pictures(images: Picture | Iterable[Picture]) -> Sequence[Picture]:
    """A single image is a list of one; of a generator all are taken.

    What is no image is told when it is read, with its kind.
    """
    if isinstance(images, _NO_LIST) or not isinstance(images, Iterable):
        return [cast(Picture, images)]
    return cast(Sequence[Picture], images) if isinstance(images, Sequence) else list(images)


def as_texts(texts: str | Iterable[str]) -> Sequence[str]:
    """A single text is a list of one; of a generator all are taken.

    Raises:
        DataError: One of them is no text, as where a table has a gap.
    """
    if isinstance(texts, str):
        return [texts]
    listed = list(texts) if isinstance(texts, Iterable) else [texts]
    for place, text in enumerate(listed):
        if not isinstance(text, str):
            raise DataError(
                f"text {place} is no text but {type(text).__name__} ({text!r:.40}); right is a str",
                reason="bad_text",
            )
    return listed
