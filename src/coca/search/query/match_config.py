"""Settings of a calibration, whose fields are options of `coca collection calibrate`."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Interval

from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(Config):
    """Settings of a calibration."""

    range_error: ClassVar = ArgumentError

    false_alarms: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    """Maximum rate of texts that match nothing and have a hit above the threshold."""
    texts: Annotated[int, Ge(1)] = 400
    """Maximum number of captions that are drawn, of this collection and of each other."""
    seed: int = 0
    """Seed of the drawing."""
