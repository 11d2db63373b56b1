from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.train.optim.schedule import ScheduleConfig
from coca.train.train_config import TrainConfig


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number above 0, got 0"),
        ({"steps": 5, "log_every": 0}, "log_every"),
        ({"steps": 5, "micro_batch": 0}, "micro_batch must be a whole number above 0 or null"),
        ({"steps": 5, "grad_clip": 0.0}, "grad_clip must be a number above 0 or null"),
        ({"steps": 5, "schedule": ScheduleConfig(warmup=5)}, "schedule.warmup 5 must be below"),
    ],
)
def test_a_setting_out_of_range_raises(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        TrainConfig(**setting)
