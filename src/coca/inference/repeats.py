"""Deduplication of repeated samples, so that each distinct image is encoded once."""

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def unique_samples(samples: Sequence[T]) -> tuple[list[T], list[list[int]]]:
    """Return the distinct samples in order of first occurrence, and all positions of each.

    Paths and encoded images are compared by value, opened images by identity.
    """
    positions: dict[Hashable, list[int]] = {}
    for position, sample in enumerate(samples):
        positions.setdefault(_key(sample), []).append(position)
    return [samples[found[0]] for found in positions.values()], [*positions.values()]


def expand_positions(
    positions: Sequence[Sequence[int]], size: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Expand a batch of distinct samples to all their positions, `size` positions at a time.

    Yields:
        Row in the batch and position in the output, for each position.
    """
    pairs = iter([(row, position) for row, found in enumerate(positions) for position in found])
    while part := list(islice(pairs, size)):
        yield [row for row, _ in part], [position for _, position in part]


def _key(sample: object) -> Hashable:
    if isinstance(sample, str | bytes | Path):
        return sample
    if isinstance(sample, list | tuple):
        return tuple(map(_key, sample))
    return id(sample)
