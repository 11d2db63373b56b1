"""Numeric precision: whether bf16 is faster than fp32 on a device.

A processor without bf16 instructions (AVX512_BF16, AMX, or Arm's BF16) converts operands to fp32.
One thread of an AMD EPYC without AVX-512 takes 3.5 ms in fp32 and 30 ms in bf16 for a product of
256 x 768 by 768 x 768. Instruction flags have other names on each architecture and do not include
the library's own limits, so a small product is timed once per process.
"""

import logging
import time
from functools import cache
from typing import Literal, TypeAlias

import torch
from torch.nn import functional as F

logger = logging.getLogger(__name__)

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
"""`auto` is bf16 where the device multiplies it faster, else fp32."""

ROWS, WIDTH, ROUNDS = 128, 512, 5
_TIMED = (torch.float32, torch.bfloat16)
MIN_GAIN = 1.2
"""bf16 must be faster than fp32 by this factor; casts around the products cost time as well."""


def resolve_precision(
    precision: Precision, device: torch.device
) -> Literal["fp32", "bf16", "fp16"]:
    """Resolve `auto` to the faster of fp32 and bf16 on a device; warn about a slow `bf16`."""
    if precision == "auto":
        chosen: Literal["fp32", "bf16"] = "bf16" if bf16_gain(device) >= MIN_GAIN else "fp32"
        logger.info("precision auto: %s on this device", chosen)
        return chosen
    if precision == "bf16" and (gain := bf16_gain(device)) < 1 / MIN_GAIN:
        logger.warning(
            "this processor has no bf16 instructions: products take %.1f times as long as in fp32; "
            "set the precision to auto or fp32",
            1 / gain,
        )
    return precision


@cache
def bf16_gain(device: torch.device) -> float:
    """Return how many times as fast a matrix product is in bf16 as in fp32; measured on a CPU.

    On CUDA it is 2 with native bf16, and 0.5 where torch emulates it. On other devices it is 1.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return 2.0 if torch.cuda.is_bf16_supported(including_emulation=False) else 0.5
    if device.type != "cpu":
        return 1.0
    weight, inputs = torch.ones(WIDTH, WIDTH), torch.ones(ROWS, WIDTH)
    operands = {dtype: (inputs.to(dtype), weight.to(dtype)) for dtype in _TIMED}
    best = dict.fromkeys(_TIMED, float("inf"))
    with torch.inference_mode():
        # In turn, since the load of a machine changes; the first round compiles the kernels.
        for turn in range(ROUNDS + 1):
            for dtype, (rows, columns) in operands.items():
                begun = time.perf_counter()
                F.linear(rows, columns)
                if turn:
                    best[dtype] = min(best[dtype], time.perf_counter() - begun)
    return best[torch.float32] / best[torch.bfloat16]
