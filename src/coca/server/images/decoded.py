"""Decoded images of requests, their regions and their preprocessing.

Dimensions: S side of the model's input (pixels).
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from coca.runtime.preprocess import ImageSettings

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom of a region, in fractions of width and height, 0 to 1."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image at the model's input size."""

    square: UInt8[np.ndarray, "S S 3"]
    """Pixels as the processor of the model resizes them, 0 to 255."""
    width: int
    """Width of the upright image, in pixels."""
    height: int
    time: int
    """Time of capture, in seconds since 1970; 0 if unknown."""
    covered: Box
    """Part of the image that `square` shows; below 0 or above 1 where it is padded."""


@dataclass(frozen=True)
class ImageSteps:
    """Preprocessing of decoded images."""

    settings: ImageSettings
    as_torch: bool
    """Whether images are resized as by torch; else by Pillow."""

    @property
    def at_least(self) -> int | None:
        """Minimum side at which a JPEG may be decoded, in pixels; None: full resolution."""
        return self.settings.image_size if self.settings.reduced else None
