"""Decoded images of requests, their regions, and the Protocol of their preprocessing.

Dimensions: H, W height and width of an image; S side of the model's input (pixels).
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import UInt8

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


@runtime_checkable
class ImageSteps(Protocol):
    """Preprocessing of decoded images."""

    @property
    def at_least(self) -> int | None:
        """Minimum side at which a JPEG may be decoded, in pixels; None: full resolution."""
        ...

    def square(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "S S 3"]:
        """Resize an image to the model's input."""
        ...

    def covered_region(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Box:
        """Compute which part of an image the model's input shows."""
        ...
