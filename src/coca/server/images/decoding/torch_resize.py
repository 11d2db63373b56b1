"""Antialiased resizing of uint8 pixels in NumPy, equal to `torch.nn.functional.interpolate`.

A decoder process has no torch. Pillow's results differ from torch's by one grey level in a few
pixels, since its weights have more bits, and an uploaded image would get another vector than an
indexed one.

Dimensions: H, W height and width of the image; h, w those of the result.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, UInt8

_BANDS = 16
"""Number of products of an axis: more have fewer zeros, fewer have less overhead."""
_WEIGHT_BITS, _MAX_PRECISION = 15, 22
"""Bits of a weight, and maximum number of its bits after the point, as of torch."""


def resize_rows(
    pixels: UInt8[np.ndarray, "H W C"], width: int, interpolation: str
) -> UInt8[np.ndarray, "H w C"]:
    """Resize each row; several rows of an image give the same result as all at once."""
    columns = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    return np.ascontiguousarray(resize_columns(columns, width, interpolation).transpose(1, 0, 2))


def resize_columns(
    pixels: UInt8[np.ndarray, "H W C"], height: int, interpolation: str
) -> UInt8[np.ndarray, "h W C"]:
    """Resize each column."""
    if len(pixels) == height:
        return pixels
    # Products of whole numbers with a common divisor of a power of 2: float64 is exact.
    values = pixels.reshape(len(pixels), -1).astype(np.float64)
    resized = np.empty((height, values.shape[1]), np.uint8)
    for first, start, weights in _bands(len(pixels), height, interpolation):
        sums = weights @ values[start : start + weights.shape[1]]
        sums += 0.5
        np.floor(sums, out=sums)
        resized[first : first + len(sums)] = np.clip(sums, 0, 255, out=sums)
    return resized.reshape(height, *pixels.shape[1:])


@lru_cache(maxsize=16)
def _bands(
    size: int, resized: int, interpolation: str
) -> list[tuple[int, int, Float64[np.ndarray, "_ _"]]]:
    """Compute the weights of an axis, as matrices of neighbouring results.

    Each comes with its first result and the first pixel of its weights.
    """
    rows = _rounded(_weights(size, resized, interpolation))
    step = max(1, resized // _BANDS)
    bands = []
    for first in range(0, resized, step):
        part = rows[first : first + step]
        start = part[0][0]
        end = max(at + len(weights) for at, weights in part)
        matrix = np.zeros((len(part), end - start))
        for row, (at, weights) in zip(matrix, part, strict=True):
            row[at - start : at - start + len(weights)] = weights
        bands.append((first, start, matrix))
    return bands


def _weights(
    size: int, resized: int, interpolation: str
) -> list[tuple[int, Float64[np.ndarray, " _"]]]:
    """Compute for each result its first pixel and the weights from there on; their sum is 1."""
    kernel, reach = _KERNELS[interpolation]
    scale = size / resized
    wider = max(scale, 1.0)
    rows = []
    for place in range(resized):
        center = scale * (place + 0.5)
        start = max(int(center - reach * wider + 0.5), 0)
        end = min(int(center + reach * wider + 0.5), size)
        weights = kernel((np.arange(start, end) - center + 0.5) / wider)
        rows.append((start, weights / weights.sum()))
    return rows


def _rounded(
    rows: list[tuple[int, Float64[np.ndarray, " _"]]],
) -> list[tuple[int, Float64[np.ndarray, " _"]]]:
    """Round weights to fixed point, with as many bits as the largest one leaves."""
    largest = max(weights.max() for _, weights in rows)
    bits = 0
    while bits < _MAX_PRECISION and int(0.5 + largest * 2 ** (bits + 1)) < 2**_WEIGHT_BITS:
        bits += 1
    one = 2.0**bits
    return [(at, np.trunc(weights * one + np.copysign(0.5, weights)) / one) for at, weights in rows]


def _cubic(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((5 - x) * x - 8) * x * 0.5 + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _linear(x: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    return np.maximum(0.0, 1 - np.abs(x))


_Kernel = Callable[[Float64[np.ndarray, " k"]], Float64[np.ndarray, " k"]]
_KERNELS: dict[str, tuple[_Kernel, float]] = {"bicubic": (_cubic, 2.0), "bilinear": (_linear, 1.0)}
"""Kernel of an interpolation, and its reach in pixels."""
