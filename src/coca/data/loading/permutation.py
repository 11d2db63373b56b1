"""Stateless shuffling: a keyed pseudorandom permutation with random access.

A Feistel network (Luby and Rackoff 1988) over a grid slightly larger than the range. Positions
outside the range are permuted again until they are inside (cycle walking, Black and Rogaway 2002).
All functions are vectorized.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray

UInt64Array: TypeAlias = NDArray[np.uint64]

# Six rounds: four are needed for a strong pseudorandom permutation.
ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(*parts: int | Integer[np.ndarray, "..."]) -> UInt64Array:
    """Hash each combination of non-negative integers to 64 bits.

    Args:
        parts: Integers or arrays that broadcast together; their order matters.
    """
    # At least one dimension: NumPy warns about the intended overflow only for scalars.
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _scramble((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def permute(positions: UInt64Array, size: UInt64Array, key: UInt64Array) -> UInt64Array:
    """Permute positions of the range `0 .. size - 1` by the permutation that `key` selects.

    Args:
        positions: Each below its `size`.
        size: Length of the range, at least 1; broadcasts, so that each position may have its own.
        key: From `mix`; broadcasts as well.
    """
    positions, size, key = np.broadcast_arrays(positions, size, key)
    width = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.uint64)
    height = (size + width - np.uint64(1)) // width
    permuted = _feistel(positions, width, height, key)
    outside = np.flatnonzero(permuted >= size)
    while outside.size:
        again = _feistel(permuted[outside], width[outside], height[outside], key[outside])
        permuted[outside] = again
        outside = outside[again >= size[outside]]
    return permuted


def _feistel(
    positions: UInt64Array, width: UInt64Array, height: UInt64Array, key: UInt64Array
) -> UInt64Array:
    """Permute the whole grid: each round shifts one coordinate by a hash of the other."""
    column, row = np.divmod(positions, height)
    for turn in range(0, ROUNDS, 2):
        column = (column + _scramble(row + key + np.uint64(turn)) % width) % width
        row = (row + _scramble(column ^ key ^ np.uint64(turn + 1)) % height) % height
    return column * height + row


def _scramble(bits: UInt64Array) -> UInt64Array:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood 2014); all bits affect all bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))
