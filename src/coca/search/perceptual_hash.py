"""Perceptual hash of an image: its grey levels at 16 x 16 pixels, with which copies are recognized.

A copy of another size, compression or without colour has nearly the same hash; a photo of the same
scene a second later has not. 64 or 256 signs of the cosine transform do not tell these apart
(benchmarks/lab-notes.md).

Dimensions: N images, B 256 bytes of a hash.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 16
HASH_BYTES = SIDE * SIDE
DECODED_SIDE = 8 * SIDE
"""Side in pixels down to which a JPEG may be decoded: the hash changes by two grey levels at most.
"""
_LEAST_SPREAD = 1.0
"""Standard deviation of grey levels below which an image is uniform, and like no other."""


def perceptual_hash(image: "Image") -> bytes:
    """Compute the hash of an upright image, 256 bytes, row by row."""
    # Commands that only search start without Pillow.
    from PIL.Image import Resampling

    grey = image.convert("L")
    return grey.resize((SIDE, SIDE), Resampling.LANCZOS).tobytes()


def stacked(hashes: list[bytes]) -> UInt8[np.ndarray, "N B"]:
    """Stack hashes; one of zeros, which is like no other, where there is none."""
    empty = bytes(HASH_BYTES)
    joined = b"".join(hash or empty for hash in hashes)
    return np.frombuffer(joined, np.uint8).reshape(len(hashes), HASH_BYTES)


def mirrored(hashes: UInt8[np.ndarray, "N B"]) -> UInt8[np.ndarray, "N B"]:
    """Return the hashes of the mirrored images."""
    return hashes.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(-1, HASH_BYTES)


def normalized(levels: np.ndarray) -> Float32[np.ndarray, "N B"]:
    """Subtract the mean of each row and scale it to length 1; products of rows are correlations.

    Rows of a uniform image are shorter.
    """
    centred = levels.astype(np.float32) - levels.mean(axis=1, keepdims=True, dtype=np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.maximum(lengths, _LEAST_SPREAD * SIDE)
