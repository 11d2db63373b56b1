"""Images for the gates of an export: those of a folder, or a small drawn set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from coca.core.errors import ConfigError
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.runtime.image_file import ImageSource

DRAWN = 256
"""Number of drawn images. With 32, one query that changes its result costs a recall of 0.031."""
MAX_IMAGES = 512
"""Maximum number of images of a folder that are compared; they take some minutes."""
_SIDE_PX = 256


def gate_images(folder: Path | None, *, drawn: int = DRAWN) -> Sequence[ImageSource]:
    """Return the images of a folder and its subfolders by name, or drawn images without a folder.

    Of a folder with more than `MAX_IMAGES` images, so many at equal distances are returned.

    Args:
        folder: Folder of images, or None.
        drawn: Number of drawn images.

    Raises:
        ConfigError: The folder has fewer than 8 images.
    """
    if folder is None:
        return [_drawn(number) for number in range(drawn)]
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) < 8:
        raise ConfigError(
            f"--images needs a folder with at least 8 images, got {len(found)} in {folder}"
        )
    if len(found) <= MAX_IMAGES:
        return found
    return [found[number * len(found) // MAX_IMAGES] for number in range(MAX_IMAGES)]


def _drawn(number: int) -> Image.Image:
    """Draw shapes on a gradient with noise; equal for equal numbers."""
    random = np.random.default_rng(number)
    corners = random.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    size = (_SIDE_PX + 8 * (number % 5), _SIDE_PX)
    smooth = Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR)
    noise = random.normal(0, 2 * (number % 4), (size[1], size[0], 3))
    image = Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(2 + number % 4):
        x, y, width, height = (int(value) for value in random.integers(16, 144, 4))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        box = (x, y, x + width, y + height)
        shape = int(random.integers(3))
        if shape == 0:
            draw.ellipse(box, fill=colour)
        elif shape == 1:
            draw.rectangle(box, fill=colour)
        else:
            draw.polygon([(x, y + height), (x + width, y + height), (x + width // 2, y)], colour)
    return image
