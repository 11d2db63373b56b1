"""How a process joins the others that torchrun started with it."""

import os
import time
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from coca.core.errors import ConfigError
from coca.train.distributed_context import DistributedContext

_KEY = "coca/meeting"
_PATIENCE = timedelta(minutes=10)
"""How long ranks wait for each other at the start, where some may still import or fetch."""
_ATTEMPT = timedelta(seconds=3)


def join_from_environment(device: str) -> DistributedContext:
    """Join the processes that `torchrun` started; a process started otherwise stays on its own.

    This is the one place below the doors that reads the environment, and only a door calls it.
    Numbers travel by NCCL between accelerators and by gloo between CPUs.

    Args:
        device: As the run's: `auto`, `cpu` or `cuda`. On a machine with several accelerators, each
            rank takes the one of its local rank.

    Raises:
        ConfigError: The device names one accelerator, which the ranks would all take.
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
    store = _meet(rank) if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else None
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    return DistributedContext.current()


def _meet(rank: int) -> Store:
    """A store of this start's own.

    Torchrun keeps one over all restarts, in which the addresses of killed processes still stand;
    who reads one of them in time fails to connect (pytorch issue 135712; seen with torch 2.13). So
    rank 0 opens a store that dies with it, and only its address is looked up in the old one, again
    until it answers.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    kept = TCPStore(host, port, is_master=False, timeout=_PATIENCE)
    if rank == 0:
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
        kept.set(_KEY, str(own.port))
        return own
    end = time.monotonic() + _PATIENCE.total_seconds()
    while True:
        found = int(kept.get(_KEY))
        try:
            store = TCPStore(host, found, is_master=False, timeout=_ATTEMPT)
        except distributed.DistError:
            if time.monotonic() > end:
                raise
        else:
            store.set_timeout(_PATIENCE)
            return store
