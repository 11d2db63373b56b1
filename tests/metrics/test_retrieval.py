from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from coca.metrics.retrieval import chance_recall, first_relevant_rank, retrieval_scores

Problem = tuple[ndarray, ndarray]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A similarity of few levels, so that ties abound, or of many; and its relevant items."""
    queries, items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([3, 99]))
    similarity = random.integers(0, levels, (queries, items)).astype(np.float32)
    relevant = random.random((queries, items)) < 0.3
    relevant[np.arange(queries), random.integers(items, size=queries)] = True
    return similarity, relevant


def ranks_by_sorting(similarity: ndarray, relevant: ndarray) -> list[int]:
    """The independent reference: sort each row as a person would and look down the list."""
    ranks = []
    for scores, right in zip(similarity.tolist(), relevant.tolist(), strict=True):
        order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
        ranks.append(1 + [right[item] for item in order].index(True))
    return ranks


@given(problems())
def test_ranks_equal_those_of_a_stable_sort(problem: Problem) -> None:
    assert first_relevant_rank(*problem).tolist() == ranks_by_sorting(*problem)


@given(problems(), st.sampled_from([1, 5, 10]))
def test_recall_is_the_fraction_of_ranks_up_to_k(problem: Problem, k: int) -> None:
    ranks, scores = ranks_by_sorting(*problem), retrieval_scores(*problem)
    assert scores[f"recall@{k}"] == pytest.approx(sum(r <= k for r in ranks) / len(ranks))


@given(problems(), st.integers(1, 9))
def test_chance_is_the_mean_over_all_orders(problem: Problem, k: int) -> None:
    """All sets of k items are equally likely to come first."""
    _, relevant = problem
    items = relevant.shape[1]
    found = [
        np.mean([any(row[list(first)]) for first in combinations(range(items), min(k, items))])
        for row in relevant
    ]
    assert chance_recall(relevant, k) == pytest.approx(np.mean(found))


@given(problems(), st.floats(0.1, 10), st.floats(-5, 5))
def test_only_the_order_of_similarities_counts(
    problem: Problem, scale: float, shift: float
) -> None:
    similarity, relevant = problem
    moved = first_relevant_rank(similarity.astype(np.float64) * scale + shift, relevant)
    assert moved.tolist() == first_relevant_rank(similarity, relevant).tolist()


def test_scores_of_a_case_worked_by_hand() -> None:
    # Ranks of the first relevant item: 1, 3 and 2.
    similarity = np.array([[0.9, 0.1, 0.5], [0.3, 0.9, 0.5], [0.1, 0.2, 0.3]])
    relevant = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=bool)
    assert retrieval_scores(similarity, relevant) == {
        "recall@1": pytest.approx(1 / 3),
        "recall@5": 1.0,
        "recall@10": 1.0,
        "median_rank": 2.0,
    }


def test_an_item_excluded_by_minus_infinity_ranks_last() -> None:
    similarity = np.array([[-np.inf, 0.0, -np.inf]])
    assert first_relevant_rank(similarity, np.array([[False, False, True]])).tolist() == [3]


def test_the_median_of_an_even_number_of_ranks_is_between() -> None:
    similarity = np.array([[2.0, 1.0], [2.0, 1.0]])
    assert retrieval_scores(similarity, np.eye(2, dtype=bool))["median_rank"] == 1.5


ALL = np.ones((2, 3), dtype=bool)
FIRST = ALL & [[True], [False]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: retrieval_scores(np.zeros((2, 3)), FIRST),
            "query 1 has no relevant",
        ),
        (lambda: retrieval_scores(np.full((2, 3), np.nan), ALL), "similarity contains 6 NaN"),
        (lambda: retrieval_scores(np.zeros((0, 3)), ALL[:0]), "has nothing to rank"),
        (lambda: retrieval_scores(np.zeros((2, 0)), ALL[:, :0]), "has nothing to rank"),
        (lambda: chance_recall(ALL, 0), "k is 0"),
        (lambda: chance_recall(ALL[:0], 1), "must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
