"""Where and how a model runs: options of every command that loads one.

This module imports no NumPy and no torch, since commands declare their options by it.
"""

from typing import Literal, TypeAlias, get_args

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError

CERTAIN = 0.85
"""Least certainty of a generated caption that is shown and indexed by default."""

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]


class Execution(Config):
    """Device and precision of a model. Vectors of all of them can be compared."""

    device: str | None = None
    """Torch device, such as cuda:0; default: an accelerator, else cpu."""
    precision: Precision = "fp32"
    """Precision of the model: fp32, bf16, fp16, or auto for the faster of fp32 and bf16."""


DEFAULT = Execution()
"""By torch on the first accelerator, in fp32."""


def check_precision(precision: str) -> None:
    """Raise a `ConfigError` for an unknown name of a precision."""
    if precision not in (known := get_args(Precision)):
        raise ConfigError(f"precision {precision!r} is unknown; choose one of {', '.join(known)}")
