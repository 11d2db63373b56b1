"""Distributed context: rank, world size and host-side collectives of a run."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from torch import distributed

from coca.core.errors import CocaError

T = TypeVar("T")

TIMEOUT = timedelta(days=1)
"""Timeout for ranks that wait for rank 0, which may train a tokenizer or evaluate a model. A rank
that ends is still detected at once."""


@dataclass(frozen=True)
class DistributedContext:
    """Rank and world size of this process; all ranks must call every method, except `is_main`.

    Collectives exchange small objects over the CPU. Pickle is used only between the processes of
    one run, never on files.
    """

    rank: int = 0
    """Rank of this process, from 0."""
    size: int = 1
    """World size: number of processes."""

    @classmethod
    def current(cls) -> "DistributedContext":
        """Read rank and world size from torch's process group; without one, a single process."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which writes files and logs."""
        return self.rank == 0

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """Compute the elementwise maximum over all ranks."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(list(values), dtype=torch.int64)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return numbers.tolist()

    def gather(self, value: T, group: distributed.ProcessGroup | None = None) -> list[T]:
        """Gather the value of each rank, in rank order; `group` has the same ranks."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        distributed.all_gather_object(values, value, group)
        return values  # type: ignore[return-value]

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """Run `function` on rank 0 only and return its result on all ranks; it may take hours.

        Raises:
            CocaError: `function` raised it, and every rank raises it; or another rank has ended.
        """
        if self.size == 1:
            return function()
        outcome: list[tuple[T | None, CocaError | None]] = [(None, None)]
        if self.is_main:
            try:
                outcome = [(function(), None)]
            except CocaError as error:
                outcome = [(None, error)]
        with lost_ranks_reported(self):
            distributed.broadcast_object_list(
                outcome, src=0, group=_long_timeout_group(_all_ranks())
            )
        value, refusal = outcome[0]
        if refusal is not None:
            raise refusal
        return value  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            self.all_reduce_max([0])


def _all_ranks() -> distributed.ProcessGroup:
    group = distributed.group.WORLD
    assert group is not None, "a world of several ranks has joined"
    return group


@cache
def _long_timeout_group(group: distributed.ProcessGroup) -> distributed.ProcessGroup:
    """Return a group of the same ranks with a long timeout; torch's default is half an hour.

    It is created at first use, by all ranks at the same time.
    """
    return distributed.new_group(backend="gloo", timeout=TIMEOUT)


@contextmanager
def lost_ranks_reported(world: DistributedContext) -> Iterator[None]:
    """Convert torch's errors about a lost rank to a readable error.

    Raises:
        CocaError: Another rank has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if world.size == 1 or not (isinstance(error, distributed.DistError) or "gloo" in text):
            raise
        # Gloo's message has a source location, then the cause, then advice.
        reason = re.sub(r"^\[\S*\] ", "", text).partition(". ")[0]
        raise CocaError(
            f"rank {world.rank} cannot continue: another rank has ended or cannot be reached: "
            f"{reason}; start the run again to resume from its newest checkpoint"
        ) from error
