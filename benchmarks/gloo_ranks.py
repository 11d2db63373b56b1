"""Processes of one gloo group on this machine, and the bytes that they send to each other."""

import ctypes
import fcntl
import multiprocessing
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from side_by_side import Figures, Unavailable
from torch import distributed

TRAFFIC = Path("/proc/net/dev")


def isolated() -> bool:
    """Move to a network of its own, where this process may; no other traffic is counted there.

    Raises:
        Unavailable: The system does not count the bytes of the loopback interface.
    """
    if not TRAFFIC.exists():
        raise Unavailable(f"the traffic of processes is read from {TRAFFIC}, which Linux has")
    clone_newnet, set_flags, up = 0x40000000, 0x8914, 0x41
    if ctypes.CDLL(None).unshare(clone_newnet):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, set_flags, struct.pack("16sh14x", b"lo", up))
    return True


def loopback_bytes() -> int:
    """Read the bytes that the loopback interface has sent."""
    lines = TRAFFIC.read_text(encoding="ascii").splitlines()
    (row,) = (line.split() for line in lines if line.strip().startswith("lo:"))
    return int(row[9])


def on_ranks(ranks: int, function: Callable[[], Figures]) -> Figures:
    """Run a function in processes that join one gloo group; return the result of rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        join = partial(_join, Path(folder) / "store", ranks, function)
        with ProcessPoolExecutor(ranks, multiprocessing.get_context("fork")) as pool:
            first, *_ = pool.map(join, range(ranks))
            return first


def _join(store: Path, ranks: int, function: Callable[[], Figures], rank: int) -> Figures:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks
    )
    result = function()
    distributed.destroy_process_group()
    return result


def sent_by(step: Callable[[], object], times: int) -> float:
    """Measure the bytes that each rank sends in one call of a function."""
    distributed.barrier()
    before = loopback_bytes()
    distributed.barrier()
    for _ in range(times):
        step()
    distributed.barrier()
    return (loopback_bytes() - before) / times / distributed.get_world_size()
