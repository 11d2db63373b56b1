"""Peak matrix multiplication throughput of this machine, as the ceiling of a model's throughput."""

import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

# Rows, inner size and columns as in a Transformer's linear layers.
SHAPES = ((1600, 768, 3072), (1600, 3072, 768), (8160, 512, 1024), (2048, 256, 1024))


def ceiling(*, bf16: bool, clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the peak FLOP/s, by `clock`, of matrix products with the models' shapes."""
    best = 0.0
    for rows, inner, columns in SHAPES:
        dtype = torch.bfloat16 if bf16 else torch.float32
        one = torch.randn(rows, inner).to(dtype)
        other = torch.randn(columns, inner).to(dtype)
        F.linear(one, other)
        for _ in range(10):
            start = clock()
            F.linear(one, other)
            best = max(best, 2 * rows * inner * columns / (clock() - start))
    return best
