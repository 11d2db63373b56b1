"""Process group of a run: ranks, collectives and their initialization."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from coca.core.errors import CocaError, ConfigError

# Distributed context: rank, world size and host-side collectives of a run.


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

    def gather(
        self,
        value: T,
        group: distributed.ProcessGroup | None = None,
        *,
        patient: bool = False,
    ) -> list[T]:
        """Gather the value of each rank, in rank order; `group` has the same ranks.

        With `patient`, ranks may wait for hours.
        """
        if self.size == 1:
            return [value]
        if patient:
            group = _long_timeout_group(_all_ranks())
        values: list[T | None] = [None] * self.size
        distributed.all_gather_object(values, value, group)
        return values  # type: ignore[return-value]

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """Run `function` on rank 0 only and return its result on all ranks; it may take hours."""
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

    def scatter_from_main(self, values: Sequence[T]) -> T:
        """Return to each rank its own of the values of rank 0, which has at least one per rank."""
        if self.size == 1:
            return values[0]
        own: list[T | None] = [None]
        sent = list(values[: self.size]) if self.is_main else None
        distributed.scatter_object_list(own, sent, src=0)
        return own[0]  # type: ignore[return-value]

    def broadcast_tensor_(self, tensor: Tensor) -> None:
        """Set a tensor of all ranks to the value of rank 0, through the CPU."""
        if self.size > 1 and tensor.numel():
            content = tensor.cpu().contiguous()
            # As bytes: gloo does not know every type.
            distributed.broadcast(content.reshape(-1).view(torch.uint8), src=0)
            if not self.is_main:
                tensor.copy_(content)

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
    """Convert torch's errors about a lost rank to a readable error."""
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


_KEY = "coca/meeting"
_TIMEOUT = timedelta(minutes=10)
"""Timeout of the rendezvous, while some ranks may still import or download."""
_ATTEMPT = timedelta(seconds=3)


def join_from_environment(device: str) -> DistributedContext:
    """Join the process group of `torchrun`; other processes run alone.

    This is the only function below the user interfaces that reads the environment, and only user
    interfaces call it. Backends are NCCL for GPU tensors and gloo for CPU tensors.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return DistributedContext()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if ":" in device:
        raise ConfigError(
            f"device {device} is one accelerator, but {size} processes were started; set device to "
            f"{device.partition(':')[0]}, and each takes its own"
        )
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", rank))
        torch.cuda.set_device(local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store = (
        _rendezvous_store(rank)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        else None
    )
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    return DistributedContext.current()


def _rendezvous_store(rank: int) -> Store:
    """Open a rendezvous store for this start only.

    Torchrun keeps one store over all restarts, which still has the addresses of killed processes.
    A rank that reads such an address fails to connect (pytorch issue 135712; seen with torch 2.13).
    So rank 0 opens a store that ends with it, and publishes its port in torchrun's store. The other
    ranks read the port again until the store answers.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    kept = TCPStore(host, port, is_master=False, timeout=_TIMEOUT)
    if rank == 0:
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        kept.set(_KEY, str(own.port))
        return own
    end = time.monotonic() + _TIMEOUT.total_seconds()
    while True:
        found = int(kept.get(_KEY))
        try:
            store = TCPStore(host, found, is_master=False, timeout=_ATTEMPT)
        except distributed.DistError:
            if time.monotonic() > end:
                raise
        else:
            store.set_timeout(_TIMEOUT)
            return store
