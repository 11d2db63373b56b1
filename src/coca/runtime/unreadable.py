"""Unreadable images of a list: raise an error, or skip them with a warning.

A skipped image keeps its position in the result, so that results and inputs stay aligned: its
embedding and scores are NaN, its caption is empty and has the `error`, and it has no predictions.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, ProgressOption, as_maker, silent

logger = logging.getLogger(__name__)

T = TypeVar("T")

OnError: TypeAlias = Literal["raise", "skip"]
"""`raise` at the first unreadable image, or `skip` unreadable images with a warning for each."""

BATCHES_AHEAD = 4
"""Batches computed at once, of which an unreadable image repeats the readable part."""


def with_skips(
    count: int,
    work: Callable[[Sequence[int], ProgressMaker], Sequence[T]],
    *,
    check: Callable[[int], object],
    placeholder: Callable[[DataError], T],
    on_error: str,
    batch_size: int,
    title: str,
    progress: ProgressOption,
) -> list[T]:
    """Compute one outcome per image, in order.

    Args:
        count: Number of images.
        work: Computes the outcomes of the images at these positions.
        check: Raises DataError if the image at this position is unreadable.
        placeholder: Makes the outcome of a skipped image.
        on_error: What an unreadable image does.
        batch_size: Images per batch of `work`.
        title: Title of the progress bar.
        progress: Optional progress callback, or True for a line on stderr.
    """
    maker = as_maker(progress)
    if on_error == "raise":
        return list(work(range(count), maker))
    if on_error != "skip":
        raise ConfigError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    outcomes: list[T] = []
    size = BATCHES_AHEAD * batch_size
    with maker(title, count) as bar:
        for start in range(0, count, size):
            part = range(start, min(start + size, count))
            outcomes += _skipping(part, work, check, placeholder)
            bar.advance(len(part))
    return outcomes


def _skipping(
    positions: Sequence[int],
    work: Callable[[Sequence[int], ProgressMaker], Sequence[T]],
    check: Callable[[int], object],
    placeholder: Callable[[DataError], T],
) -> Sequence[T]:
    try:
        return work(positions, silent)
    except DataError:
        faults: dict[int, DataError] = {}
        for position in positions:
            try:
                check(position)
            except DataError as error:
                faults[position] = error
                logger.warning("image %d is skipped: %s", position, error)
        if not faults:
            raise
    good = iter(work([it for it in positions if it not in faults], silent))
    return [placeholder(faults[it]) if it in faults else next(good) for it in positions]
