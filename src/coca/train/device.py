"""Device selection, and deterministic algorithms."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from coca.core.errors import ConfigError

CUBLAS_WORKSPACE = ":4096:8"
"""Workspaces with which cuBLAS is deterministic: 8 buffers of 4,096 KiB."""


def training_device(name: str | torch.device) -> torch.device:
    """Resolve a device name; `auto` is the CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Restrict torch to deterministic algorithms, and restore its settings at the end.

    Raises:
        ConfigError: An operation has no deterministic algorithm on this device.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill = settings.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    # A debugging aid for reads of uninitialized memory, which costs time.
    settings.fill_uninitialized_memory = False
    try:
        yield
    except RuntimeError as error:
        name, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise ConfigError(
            f"train.deterministic is true, but {name} has no deterministic algorithm on this "
            "device; set it to false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)
        settings.fill_uninitialized_memory = fill
