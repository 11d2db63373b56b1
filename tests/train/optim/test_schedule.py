import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.train.optim.schedule import ScheduleConfig, lr_at, patch_dropout_at, warmup_steps

SCHEDULES = st.builds(
    ScheduleConfig,
    warmup=st.one_of(st.integers(0, 50), st.floats(0, 0.9)),
    decay=st.sampled_from(["cosine", "linear", "constant"]),
    final_lr_fraction=st.floats(0, 1),
)


@given(config=SCHEDULES, total=st.integers(100, 500))
def test_the_factor_rises_to_one_and_falls_to_its_final_value(
    config: ScheduleConfig, total: int
) -> None:
    factors = [lr_at(step, total, config) for step in range(total + 1)]
    peak = warmup_steps(total, config)
    assert factors[peak] == 1.0
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert min(factors) >= 0
    final = 1.0 if config.decay == "constant" else config.final_lr_fraction
    assert lr_at(total, total, config) == pytest.approx(final)
    assert lr_at(total + 10, total, config) == pytest.approx(final)


@given(config=SCHEDULES, total=st.integers(200, 500))
def test_the_factor_has_no_jumps(config: ScheduleConfig, total: int) -> None:
    factors = [lr_at(step, total, config) for step in range(total + 1)]
    peak = warmup_steps(total, config)
    # The steepest parts: the warm-up's line, and pi/2 times the mean slope of a cosine.
    steepest = max(1 / (peak + 1), 1.6 / (total - peak))
    jumps = [abs(a - b) for a, b in itertools.pairwise(factors)]
    assert max(jumps) <= steepest + 1e-12


def test_the_first_and_the_last_update_have_a_learning_rate() -> None:
    config = ScheduleConfig(warmup=0.02, decay="linear")
    assert lr_at(0, 1000, config) == pytest.approx(1 / 21)
    assert lr_at(999, 1000, config) > 0


def test_the_papers_schedule_by_hand() -> None:
    # 2 % of 500,000 steps of warm-up, then linear to 0 (section 4.1).
    config = ScheduleConfig()
    assert warmup_steps(500_000, config) == 10_000
    assert lr_at(255_000, 500_000, config) == pytest.approx(0.5)


def test_a_run_of_one_step_trains() -> None:
    assert lr_at(0, 1, ScheduleConfig()) == 1.0


@given(tail=st.floats(0, 1), total=st.integers(1, 500))
def test_patches_are_left_out_until_the_tail_and_never_after(tail: float, total: int) -> None:
    config = ScheduleConfig(patch_dropout=0.5, unmasked_tail=tail)
    shares = [patch_dropout_at(step, total, config) for step in range(total)]
    whole = shares.count(0.0)
    assert shares == [0.5] * (total - whole) + [0.0] * whole
    assert abs(whole - tail * total) <= (0.5 if whole != 1 else 1)
    assert (whole > 0) == (tail > 0)


def test_no_run_leaves_out_patches_unless_it_is_asked_to() -> None:
    assert patch_dropout_at(0, 100, ScheduleConfig()) == 0.0
