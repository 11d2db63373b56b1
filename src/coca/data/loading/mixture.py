"""Weighted mixture of sources: sampling order as a pure function of (seed, weights, index).

A Feistel network (Luby and Rackoff 1988) over a grid slightly larger than the range. Positions
outside the range are permuted again until they are inside (cycle walking, Black and Rogaway 2002).
All functions are vectorized.

The sampler has no state: sample 10,000,000 is computed as quickly as sample 0. A run may therefore
stop and resume anywhere, on any number of machines.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64, Integer
from numpy.typing import NDArray

from coca.core.errors import ConfigError

# Stateless shuffling: a keyed pseudorandom permutation with random access.


UInt64Array: TypeAlias = NDArray[np.uint64]

# Six rounds: four are needed for a strong pseudorandom permutation.
ROUNDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(*parts: int | Integer[np.ndarray, "..."]) -> UInt64Array:
    """Hash each combination of non-negative integers to 64 bits."""
    # At least one dimension: NumPy warns about the intended overflow only for scalars.
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _scramble((state ^ np.asarray(part).astype(np.uint64)) + _GOLDEN)
    return state


def permute(positions: UInt64Array, size: UInt64Array, key: UInt64Array) -> UInt64Array:
    """Permute positions of the range `0 .. size - 1` by the permutation that `key` selects."""
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


# Blocks whose rows are shuffled together: the shuffle window.
GROUP_BLOCKS = 64

# Longest interleaving period; weights that need a longer period are rounded to it.
MAX_PERIOD = 65_536

# Domain separation of keys, so that no two shuffles of one seed are equal.
_EPOCH, _BLOCKS, _WITHIN, _SHIFT, _SPARE = range(5)

Indices = NDArray[np.int64]


class Draw(NamedTuple):
    """Source, epoch and row of samples, as arrays of the shape of the indices."""

    source: Indices
    epoch: Indices
    """Number of complete passes over the source before this sample."""

    position: Indices
    """Row within the source."""


class Mixture:
    """Weighted sampler over several sources, each reshuffled in every epoch.

    After any number n of samples, source i was sampled n * weight_i / sum(weights) times, with an
    error below 1. Each row of a source occurs once in an epoch.

    Args:
        sizes: Rows of each source, at least 1.
        weights: Relative sampling weight of each source, above 0; interpreted by its decimal
            digits, so that 0.1 is exactly a tenth.
        seed: Not negative.
        block_sizes: For each source, the number of consecutive rows that are cheap to read
            together. Above 1, blocks are shuffled, and rows within groups of 64 blocks. Reads then
            have the locality that remote storage needs. At 1 (default) all rows are shuffled.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        seed: int,
        block_sizes: Sequence[int] | None = None,
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"sources of sizes {list(sizes)} were given; each needs a sample")
        self.seed = seed
        self.turns = whole_weights(weights)
        """The weights as the smallest integers of the same ratio."""
        order, rank = _interleave(self.turns)
        self._order, self._rank = order, rank
        self._turns = np.asarray(self.turns, np.int64)
        self._sizes = np.asarray(sizes, np.int64)
        self._blocks = np.asarray(block_sizes or [1] * len(sizes), np.int64)
        # A source without blocks is a single group.
        self._groups = np.where(self._blocks == 1, self._sizes, self._blocks * GROUP_BLOCKS)

    def draw(self, indices: int | Int64[np.ndarray, "..."]) -> Draw:
        """Compute source, epoch and row of samples by global index, at least 0."""
        shape = np.shape(indices)
        lap, slot = np.divmod(
            np.atleast_1d(np.asarray(indices, np.int64)).ravel(), len(self._order)
        )
        source = self._order[slot]
        epoch, index = np.divmod(lap * self._turns[source] + self._rank[slot], self._sizes[source])
        position = self._shuffled(source, epoch, index)
        return Draw(source.reshape(shape), epoch.reshape(shape), position.reshape(shape))

    def spare(self, index: int, attempt: int) -> int:
        """Choose a replacement row of the same source for sample `index`, whose row is bad.

        The attempts 0, 1, .. visit the whole source in an order specific to the index; further
        attempts repeat that order.
        """
        source = int(self.draw(index).source)
        size = int(self._sizes[source])
        key = mix(self.seed, _SPARE, index)
        return int(permute(_as_uint64(attempt % size), _as_uint64(size), key)[0])

    def _shuffled(self, source: Indices, epoch: Indices, position: Indices) -> Indices:
        """Return the rows at the given positions of their epoch."""
        key = mix(self.seed, _EPOCH, source, epoch)
        size, block = self._sizes[source], self._blocks[source]
        # Within each group of shuffled blocks, shuffle the rows ...
        group, within = np.divmod(position, self._groups[source])
        first = position - within
        length = np.minimum(self._groups[source], size - first)
        moved = permute(_as_uint64(within), _as_uint64(length), mix(_WITHIN, key, group))
        position = first + moved.astype(np.int64)
        # ... then look up the block at that position. The rows of the incomplete block come last;
        # since each epoch starts blocks at another row, these rows differ between epochs.
        number, inside = np.divmod(position, block)
        whole = size // block
        inner = np.flatnonzero(number < whole)
        number[inner] = permute(
            _as_uint64(number[inner]), _as_uint64(whole[inner]), mix(_BLOCKS, key[inner])
        ).astype(np.int64)
        shift = (mix(_SHIFT, key) % size.astype(np.uint64)).astype(np.int64)
        return (number * block + inside + shift) % size


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Convert weights to the smallest integers of the same ratio.

    If their sum would exceed 65,536, they are rounded to that sum.
    """
    if not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(f"weights {list(weights)} were given; each must be above 0 and finite")
    # By the decimal digits, since the float 0.1 is not exactly a tenth.
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact)
    if sum(_reduced(exact)) > MAX_PERIOD:
        exact = [Fraction(round(weight / total * MAX_PERIOD)) for weight in exact]
        if min(exact) == 0:
            raise ConfigError(
                f"weights {list(weights)} were given; the smallest is below one in {MAX_PERIOD:,} "
                "of their sum and would never be drawn"
            )
    return _reduced(exact)


def _reduced(ratio: Sequence[Fraction]) -> tuple[int, ...]:
    common = math.lcm(*(weight.denominator for weight in ratio))
    whole = [int(weight * common) for weight in ratio]
    divisor = math.gcd(*whole)
    return tuple(number // divisor for number in whole)


def _interleave(turns: Sequence[int]) -> tuple[Indices, Indices]:
    """Schedule the sources in each slot of the period; return source and turn number of each slot.

    Turn j of a source with w of W turns has a window of slots: from floor(j W / w) to before
    ceil((j + 1) W / w). Earliest pseudo-deadline first (Baruah et al. 1996) meets every window.
    Then every prefix of the schedule has an error below 1.
    """
    period = sum(turns)
    order = np.empty(period, np.int64)
    rank = np.empty(period, np.int64)
    waiting = [(0, source, 0) for source in range(len(turns))]
    ready: list[tuple[int, int, int]] = []
    for slot in range(period):
        while waiting and waiting[0][0] <= slot:
            _, source, turn = heapq.heappop(waiting)
            deadline = -(-(turn + 1) * period // turns[source])
            heapq.heappush(ready, (deadline, source, turn))
        _, source, turn = heapq.heappop(ready)
        order[slot], rank[slot] = source, turn
        if turn + 1 < turns[source]:
            release = (turn + 1) * period // turns[source]
            heapq.heappush(waiting, (release, source, turn + 1))
    return order, rank


def _as_uint64(numbers: int | Int64[np.ndarray, "..."]) -> NDArray[np.uint64]:
    return np.atleast_1d(np.asarray(numbers)).astype(np.uint64)
