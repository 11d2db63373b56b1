"""Settings of a calibration, whose fields are options of `coca collection calibrate`."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Interval

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(Config):
    """Settings of a calibration."""

    range_error: ClassVar = ArgumentError

    false_alarms: Annotated[float, Interval(gt=0, lt=0.5)] = 0.05
    """Maximum rate of texts that match nothing and have a hit above the limit."""
    max_seconds: Annotated[float, Gt(0)] = 10.0
    """Time for the searches, after which no further text is searched, unless a source has less
    than 40."""
    seed: int = 0
    """Seed of the drawing."""
