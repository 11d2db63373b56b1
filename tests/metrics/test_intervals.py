import math
from collections.abc import Callable

import numpy as np
import pytest

from coca.metrics.intervals import (
    cluster_interval,
    grouped_interval,
    mean_interval,
    wilson_interval,
)


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


def test_clusters_of_one_trial_are_independent_trials() -> None:
    trials = np.ones(400)
    found = cluster_interval((np.arange(400) % 4 == 0).astype(float), trials)
    assert found == pytest.approx(wilson_interval(0.25, 400), rel=1e-2)


def test_trials_that_always_agree_count_once() -> None:
    successes = 5.0 * (np.arange(400) % 4 == 0)
    found = cluster_interval(successes, np.full(400, 5.0))
    assert found == pytest.approx(wilson_interval(0.25, 400), rel=1e-2)


def test_the_interval_is_of_all_trials_and_not_of_the_mean_over_clusters() -> None:
    # 50 images with 1 caption that is found, 50 with 9 that are not: 50 of 500 captions.
    successes, trials = np.repeat([1.0, 0.0], 50), np.repeat([1.0, 9.0], 50)
    low, high = cluster_interval(successes, trials)
    assert low < 0.1 < high < 0.2


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_equal_clusters_prove_no_certainty(fraction: float) -> None:
    trials = np.full(20, 5.0)
    assert cluster_interval(fraction * trials, trials) == wilson_interval(fraction, 20)


def test_scores_of_one_group_count_as_one_cluster() -> None:
    scores = np.array([1.0, 0.0, 1.0, 0.3, 0.6, 1.0])
    names = ["b", "a", "b", "a", "c", "b"]
    sums, counts = np.array([3.0, 0.3, 0.6]), np.array([3, 2, 1])
    assert grouped_interval(scores, names) == cluster_interval(sums, counts)
    alone = grouped_interval(scores, range(6))
    assert alone == cluster_interval(scores, np.ones(6))


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        low, high = mean_interval(random.exponential(2.0, 200))
        covered += low <= 2 <= high
    # Four standard errors of 2,000 draws; the skew costs a little.
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)
    assert mean_interval(np.array([0.0, 0.0, 0.1]))[0] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(-0.1, 5), "fraction must be in"),
        (lambda: wilson_interval(1.1, 5), "fraction must be in"),
        (lambda: wilson_interval(0.5, 0), "fraction must be in"),
        (lambda: cluster_interval(np.zeros(0), np.zeros(0)), "at least 1 cluster"),
        (lambda: mean_interval(np.ones(1)), "at least 2 scores, got 1"),
    ],
)
def test_what_has_no_interval_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
