"""One image, many questions: it is encoded once, and its tokens are read for each of them."""

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def different(samples: Sequence[T]) -> tuple[list[T], list[list[int]]]:
    """The different samples, as they come first, and all places where each of them stands.

    Files are known by their path, encoded images by their bytes; opened ones only if it is the
    very same object.
    """
    places: dict[Hashable, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(_key(sample), []).append(place)
    return [samples[found[0]] for found in places.values()], [*places.values()]


def shared_out(places: Sequence[Sequence[int]], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """What is to be computed for a batch of different samples, `size` places at a time.

    Yields:
        Rows of the batch, and the place that each is wanted for.
    """
    pairs = iter([(row, place) for row, found in enumerate(places) for place in found])
    while part := list(islice(pairs, size)):
        yield [row for row, _ in part], [place for _, place in part]


def _key(sample: object) -> Hashable:
    if isinstance(sample, str | bytes | Path):
        return sample
    if isinstance(sample, list | tuple):
        return tuple(map(_key, sample))
    return id(sample)
