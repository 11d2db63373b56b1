"""Shuffles without memory: any place of a keyed permutation, computed on its own.

A Feistel network (Luby and Rackoff 1988) over a grid that is hardly larger than the range; places
that fall outside are sent through again until they fall inside (cycle walking, Black and Rogaway
2002). Every function works on whole arrays.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Integer
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]

# Six rounds: four are needed to look random to an observer who may ask for any place.
ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(*parts: int | Integer[np.ndarray, "..."]) -> Words:
    """One well spread 64-bit word for each combination of non-negative whole numbers.

    Args:
        parts: Numbers or arrays that broadcast together; their order matters.
    """
    # One dimension at least: NumPy warns of the overflow that is meant here only for scalars.
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _scramble((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def permute(places: Words, size: Words, key: Words) -> Words:
    """Where each place of the range `0 .. size - 1` lands under the permutation that `key` names.

    Args:
        places: Each below its `size`.
        size: Length of the range, at least 1; broadcasts, so that each place may have its own.
        key: From `mix`; broadcasts likewise.
    """
    places, size, key = np.broadcast_arrays(places, size, key)
    width = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.uint64)
    height = (size + width - np.uint64(1)) // width
    landed = _feistel(places, width, height, key)
    outside = np.flatnonzero(landed >= size)
    while outside.size:
        again = _feistel(landed[outside], width[outside], height[outside], key[outside])
        landed[outside] = again
        outside = outside[again >= size[outside]]
    return landed


def _feistel(places: Words, width: Words, height: Words, key: Words) -> Words:
    """A permutation of the whole grid: each round shifts one coordinate by a hash of the other."""
    column, row = np.divmod(places, height)
    for turn in range(0, ROUNDS, 2):
        column = (column + _scramble(row + key + np.uint64(turn)) % width) % width
        row = (row + _scramble(column ^ key ^ np.uint64(turn + 1)) % height) % height
    return column * height + row


def _scramble(words: Words) -> Words:
    """The finisher of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
