import math

import numpy as np
import pytest

from coca.metrics.intervals import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(("successes", "count"), [(76, 100), (97, 100), (0, 10), (10, 10), (1, 3)])
def test_both_ends_are_at_the_distance_of_the_score_test(successes: int, count: int) -> None:
    # Wilson 1927: the ends p solve |p_hat - p| = z sqrt(p (1 - p) / n).
    fraction = successes / count
    for end in wilson_interval(fraction, count):
        expected = 1.959964 * math.sqrt(end * (1 - end) / count)
        assert abs(fraction - end) == pytest.approx(expected, abs=1e-7)


def test_a_known_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 has 0.2553 to 0.3662.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("fraction", "count"), [(-0.1, 5), (1.1, 5), (0.5, 0)])
def test_what_is_no_fraction_of_trials_is_refused(fraction: float, count: int) -> None:
    with pytest.raises(ValueError, match="fraction must be in"):
        wilson_interval(fraction, count)


def test_the_bootstrap_of_trials_is_near_wilson() -> None:
    trials = np.arange(400) % 4 == 0
    assert bootstrap_interval(trials.astype(float)) == pytest.approx(
        wilson_interval(0.25, 400), abs=0.01
    )
    assert bootstrap_interval(np.ones(5)) == (1, 1)
    with pytest.raises(ValueError, match="at least 1 value"):
        bootstrap_interval(np.zeros(0))
