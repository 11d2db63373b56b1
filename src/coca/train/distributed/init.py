"""Initialize the process group from torchrun's environment."""

import os
import time
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from coca.core.errors import ConfigError
from coca.train.distributed.context import DistributedContext

_KEY = "coca/meeting"
_TIMEOUT = timedelta(minutes=10)
"""Timeout of the rendezvous, while some ranks may still import or download."""
_ATTEMPT = timedelta(seconds=3)


def join_from_environment(device: str) -> DistributedContext:
    """Join the process group of `torchrun`; other processes run alone.

    This is the only function below the user interfaces that reads the environment, and only user
    interfaces call it. Backends are NCCL for GPU tensors and gloo for CPU tensors.

    Args:
        device: Device of the run: `auto`, `cpu` or `cuda`. On a machine with several GPUs, each
            rank uses the GPU of its local rank.

    Raises:
        ConfigError: The device names one GPU, which all ranks would use.
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

    Torchrun keeps one store over all restarts, which still holds the addresses of killed processes.
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
