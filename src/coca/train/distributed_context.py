"""The processes that train one model together: who they are, and what all of them must agree on."""

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

PATIENCE = timedelta(days=1)
"""How long ranks wait for the main one, which may learn a tokenizer or score a model meanwhile. A
rank that ends is noticed at once all the same."""


@dataclass(frozen=True)
class DistributedContext:
    """One process among those of a run; every method but `is_main` must be called by all of them.

    What travels are a few numbers and words, over the CPU. Pickle is used between the processes of
    one run only, never on a file.
    """

    rank: int = 0
    """This process, from 0."""
    size: int = 1
    """How many there are."""

    @classmethod
    def current(cls) -> "DistributedContext":
        """The world of torch's process group; without one, this process on its own."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """The largest of each number over all ranks."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(list(values), dtype=torch.int64)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return numbers.tolist()

    def gather(self, value: T, group: distributed.ProcessGroup | None = None) -> list[T]:
        """The value of each rank, in their order; `group` is one of the same ranks."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        distributed.all_gather_object(values, value, group)
        return values  # type: ignore[return-value]

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """What `function` gives on the main rank; it is run there only, and may take hours.

        Raises:
            CocaError: `function` raised it, and then every rank does; or another rank has ended.
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
            distributed.broadcast_object_list(outcome, src=0, group=_patient_group(_all_ranks()))
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
def _patient_group(group: distributed.ProcessGroup) -> distributed.ProcessGroup:
    """The same ranks, but with more patience: torch's own ends after half an hour.

    Made when it is first needed, which all of them are at the same time.
    """
    return distributed.new_group(backend="gloo", timeout=PATIENCE)


@contextmanager
def lost_ranks_reported(world: DistributedContext) -> Iterator[None]:
    """Turns torch's words about a rank that does not answer any more into a sentence.

    Raises:
        CocaError: Another rank has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        if world.size == 1 or not (isinstance(error, distributed.DistError) or "gloo" in words):
            raise
        # Gloo says where in its source it is, then what happened, then what one might do.
        reason = re.sub(r"^\[\S*\] ", "", words).partition(". ")[0]
        raise CocaError(
            f"rank {world.rank} cannot go on, since another rank has ended or cannot be reached: "
            f"{reason}; started again, the run goes on from its newest checkpoint"
        ) from error
