"""Input types of the predictor: images in any format and texts, one or many."""

from collections.abc import Iterable, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import TypeAlias, cast

from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, DataError

ImageInput: TypeAlias = str | Path | bytes | Image.Image | ndarray
"""A path, the bytes of an encoded file, a PIL image, or a uint8 array of height x width x 3."""

# Single inputs that are iterable: iterating them yields lines, bytes, rows or keys.
_NO_LIST = (str, bytes, bytearray, memoryview, Path, Image.Image, ndarray, IOBase, Mapping)


def as_images(images: ImageInput | Iterable[ImageInput]) -> Sequence[ImageInput]:
    """Normalize images to a sequence: wrap a single image, exhaust an iterator.

    A value that is no image raises later, when it is read; that error names its type.
    """
    # A tensor is iterable as well, and torch may be missing.
    is_tensor = type(images).__module__.partition(".")[0] == "torch"
    if isinstance(images, _NO_LIST) or is_tensor or not isinstance(images, Iterable):
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


def prompts_for(prompt: str | Iterable[str], count: int) -> Sequence[str]:
    """Return one prompt per image, from one text for all or one text each.

    Raises:
        ConfigError: There are more or fewer texts than images.
    """
    if isinstance(prompt, str):
        return [prompt] * count
    prompts = as_texts(prompt)
    if len(prompts) != count:
        raise ConfigError(
            f"{len(prompts)} prompts do not fit {count} images; give one for all or one each"
        )
    return prompts


def whole(text: str) -> str:
    """Return the text unchanged if it can be encoded as UTF-8.

    Raises:
        DataError: It contains a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text {text[max(0, error.start - 20) : error.start + 20]!r} contains a "
            "lone surrogate, which is no character; read it with the right encoding",
            reason="bad_text",
        ) from error
    return text
