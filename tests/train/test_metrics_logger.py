import json
import math

import pytest

from coca.train.metrics_logger import MetricsLogger


def step(loss: float, norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "grad_norm": norm}


def test_a_row_is_the_mean_of_its_steps() -> None:
    figures = MetricsLogger()
    for loss in (1.0, 2.0, 6.0):
        assert figures.add(step(loss), pairs=4)
    row = figures.row(lr=0.5)
    assert row["loss"] == 3.0
    assert row["lr"] == 0.5
    assert row["pairs_per_s"] > 0
    figures.begin_row()
    figures.add(step(8.0), pairs=4)
    assert figures.row(lr=0.5)["loss"] == 8.0


@pytest.mark.parametrize("bad", [step(math.nan), step(math.inf), step(1.0, math.inf)])
def test_a_step_that_is_not_finite_is_counted_and_enters_no_mean(bad: dict[str, float]) -> None:
    figures = MetricsLogger()
    figures.add(step(1.0), pairs=4)
    assert not figures.add(bad, pairs=4)
    assert figures.bad_in_a_row == 1
    figures.add(step(3.0), pairs=4)
    assert figures.bad_in_a_row == 0
    row = figures.row(lr=0.1)
    assert row["loss"] == 2.0
    assert row["bad_steps"] == 1.0


def test_a_row_of_bad_steps_only_has_no_loss() -> None:
    figures = MetricsLogger()
    figures.add(step(math.nan), pairs=4)
    row = figures.row(lr=0.1)
    assert "loss" not in row
    assert row["bad_steps"] == 1.0


def test_the_state_survives_json_exactly() -> None:
    figures, restored = MetricsLogger(), MetricsLogger()
    for loss in (0.1, 0.2, math.nan):
        figures.add(step(loss), pairs=4)
    figures.row(lr=0.1)
    restored.restore(json.loads(json.dumps(figures.state())))
    for gathered in (figures, restored):
        gathered.add(step(0.3), pairs=4)
    assert restored.state() == figures.state()
