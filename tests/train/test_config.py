from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.train.config import TrainConfig
from coca.train.schedule import ScheduleConfig


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 5, "log_every": 0}, "log_every"),
        ({"steps": 5, "micro_batch": 0}, "micro_batch must be at least 1 pair, or null"),
        ({"steps": 5, "grad_clip": 0.0}, "grad_clip must be above 0"),
        ({"steps": 5, "schedule": ScheduleConfig(warmup=5)}, "schedule.warmup 5 must be below"),
    ],
)
def test_a_setting_out_of_range_raises(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(**setting)
