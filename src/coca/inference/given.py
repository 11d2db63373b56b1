"""What people hand in: pictures of any kind and texts, one or many."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from numpy import ndarray
from PIL import Image

Picture: TypeAlias = str | Path | bytes | Image.Image | ndarray
"""A path, an encoded file, a PIL image, or an array of height x width x 3 bytes."""


def as_pictures(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    """A single picture is a list of one."""
    return [images] if isinstance(images, str | bytes | Path | Image.Image | ndarray) else images


def as_texts(texts: str | Sequence[str]) -> Sequence[str]:
    """A single text is a list of one."""
    return [texts] if isinstance(texts, str) else texts
