"""The order of all samples, as a pure function of (seed, weights, global index).

Nothing is drawn and nothing is remembered: the place of sample 10,000,000 is computed as quickly
as that of sample 0, so that a run may stop and go on anywhere, on any number of machines.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from coca.core.errors import ConfigError
from coca.data.loading.permutation import mix, permute

# Shuffled blocks that are shuffled together: the window in which neighbours of one block meet.
GROUP_BLOCKS = 64

# The longest pattern of turns that is kept; weights that need a longer one are rounded to it.
MAX_PERIOD = 65_536

# What a key is for, so that no two shuffles of one seed are alike.
_EPOCH, _BLOCKS, _WITHIN, _SHIFT, _SPARE = range(5)

Indices = NDArray[np.int64]


class Draw(NamedTuple):
    """Where samples come from: arrays of the shape that was asked for."""

    source: Indices
    epoch: Indices
    """How often the source had been seen whole before."""

    position: Indices
    """Row within the source."""


class Mixture:
    """Draws from several sources by weight, each shuffled anew in every epoch.

    After any number n of samples, source i was drawn n * weight_i / sum(weights) times, give or
    take less than one. Each row of a source comes once an epoch.

    Args:
        sizes: Rows of each source, at least 1.
        weights: Relative share of each source, above 0; read as the decimal number that is
            written, so that 0.1 is a tenth.
        seed: Not negative.
        block_sizes: For each source, how many neighbouring rows are cheap to read together.
            Above 1, blocks are shuffled, and rows within groups of 64 blocks: reads stay near one
            another, which remote storage asks for. At 1 (default) all rows are shuffled at once.

    Raises:
        ConfigError: A source is empty, or a weight is not positive or too small beside the others.
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
        """The weights as the smallest whole numbers of the same ratio."""
        order, rank = _interleave(self.turns)
        self._order, self._rank = order, rank
        self._turns = np.asarray(self.turns, np.int64)
        self._sizes = np.asarray(sizes, np.int64)
        self._blocks = np.asarray(block_sizes or [1] * len(sizes), np.int64)
        # A source without blocks is one group.
        self._groups = np.where(self._blocks == 1, self._sizes, self._blocks * GROUP_BLOCKS)

    def draw(self, indices: int | Int64[np.ndarray, "..."]) -> Draw:
        """Source, epoch and row of the samples with these global indices, each at least 0."""
        shape = np.shape(indices)
        lap, slot = np.divmod(
            np.atleast_1d(np.asarray(indices, np.int64)).ravel(), len(self._order)
        )
        source = self._order[slot]
        epoch, place = np.divmod(lap * self._turns[source] + self._rank[slot], self._sizes[source])
        position = self._shuffled(source, epoch, place)
        return Draw(source.reshape(shape), epoch.reshape(shape), position.reshape(shape))

    def spare(self, index: int, attempt: int) -> int:
        """A row of the same source to stand in for sample `index`, whose own row is bad.

        For each index the attempts 0, 1, .. run through the whole source in an own order; further
        attempts begin anew.
        """
        source = int(self.draw(index).source)
        size = int(self._sizes[source])
        key = mix(self.seed, _SPARE, index)
        return int(permute(_words(attempt % size), _words(size), key)[0])

    def _shuffled(self, source: Indices, epoch: Indices, place: Indices) -> Indices:
        """Rows at the given places of their epoch."""
        key = mix(self.seed, _EPOCH, source, epoch)
        size, block = self._sizes[source], self._blocks[source]
        # Within each group of shuffled blocks, shuffle the rows ...
        group, within = np.divmod(place, self._groups[source])
        first = place - within
        length = np.minimum(self._groups[source], size - first)
        moved = permute(_words(within), _words(length), mix(_WITHIN, key, group))
        place = first + moved.astype(np.int64)
        # ... then look up which block stands there. Rows that fill no block come last; since
        # blocks are counted from another row in each epoch, those are never the same ones.
        number, inside = np.divmod(place, block)
        whole = size // block
        inner = np.flatnonzero(number < whole)
        number[inner] = permute(
            _words(number[inner]), _words(whole[inner]), mix(_BLOCKS, key[inner])
        ).astype(np.int64)
        shift = (mix(_SHIFT, key) % size.astype(np.uint64)).astype(np.int64)
        return (number * block + inside + shift) % size


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as the smallest whole numbers of the same ratio.

    Numbers whose sum would pass 65,536 are rounded to that sum.

    Raises:
        ConfigError: A weight is not positive and finite, or would be rounded to nothing.
    """
    if not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(f"weights {list(weights)} were given; each must be above 0 and finite")
    # By its digits, since the float 0.1 itself is no tenth.
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact)
    if sum(_reduced(exact)) > MAX_PERIOD:
        exact = [Fraction(round(share / total * MAX_PERIOD)) for share in exact]
        if min(exact) == 0:
            raise ConfigError(
                f"weights {list(weights)} were given; the smallest is below one in {MAX_PERIOD:,} "
                "of their sum and would never be drawn"
            )
    return _reduced(exact)


def _reduced(ratio: Sequence[Fraction]) -> tuple[int, ...]:
    common = math.lcm(*(share.denominator for share in ratio))
    whole = [int(share * common) for share in ratio]
    divisor = math.gcd(*whole)
    return tuple(number // divisor for number in whole)


def _interleave(turns: Sequence[int]) -> tuple[Indices, Indices]:
    """Whose turn it is in each slot of the period, and which of its own turns it is.

    Turn j of a source with w of W turns may stand in the slots from floor(j W / w) to before
    ceil((j + 1) W / w). Taking, among the turns that may start, the one that must end first meets
    every such window (earliest pseudo-deadline first, Baruah et al. 1996), and windows met means
    that every prefix is right to less than one.
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


def _words(numbers: int | Int64[np.ndarray, "..."]) -> NDArray[np.uint64]:
    return np.atleast_1d(np.asarray(numbers)).astype(np.uint64)
