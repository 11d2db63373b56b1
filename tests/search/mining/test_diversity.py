from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

from coca.search.mining.selection import drop_near_duplicates, k_center, mmr


def cloud(seed: int, rows: int, dim: int = 3) -> Float32[np.ndarray, "N E"]:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 99), st.integers(1, 12))
def test_without_diversity_relevance_alone_decides(seed: int, count: int) -> None:
    vectors, relevance = cloud(seed, 10), np.random.default_rng(seed).random(10)
    chosen = mmr(vectors, relevance, count, diversity=0.0)
    assert [row for row, _ in chosen] == np.argsort(-relevance, kind="stable")[:count].tolist()


@given(st.integers(0, 99), st.floats(0, 1))
def test_marginal_relevance_is_the_formula_and_never_grows(seed: int, diversity: float) -> None:
    vectors, relevance = cloud(seed, 10), np.random.default_rng(seed).random(10)
    chosen = mmr(vectors, relevance, 10, diversity=diversity)
    for number, (row, gain) in enumerate(chosen):
        before = [other for other, _ in chosen[:number]]
        nearest = max((float(vectors[row] @ vectors[other]) for other in before), default=-1.0)
        by_hand = (1 - diversity) * relevance[row] - diversity * nearest
        assert gain == pytest.approx(by_hand, abs=1e-6)
    gains = [gain for _, gain in chosen]
    assert all(one >= other - 1e-6 for one, other in pairwise(gains))


def test_a_copy_of_what_was_chosen_waits_behind_something_new() -> None:
    x, y = np.eye(2, dtype=np.float32)
    vectors, relevance = np.stack([x, x, y]), np.array([0.9, 0.89, 0.5])
    for diversity, order in ((0.0, [0, 1, 2]), (0.5, [0, 2, 1])):
        chosen = mmr(vectors, relevance, 3, diversity=diversity)
        assert [row for row, _ in chosen] == order


@given(st.integers(0, 99), st.integers(1, 4))
def test_k_center_is_within_twice_the_best_radius(seed: int, count: int) -> None:
    vectors = cloud(seed, 9)
    # Distances, not cosines: the bound needs the triangle inequality.
    apart = np.linalg.norm(vectors[:, np.newaxis] - vectors, axis=2)

    def radius(rows: tuple[int, ...]) -> float:
        return float(apart[:, list(rows)].min(axis=1).max())

    best = min(radius(rows) for rows in combinations(range(9), count))
    chosen = k_center(vectors, count)
    assert len(set(chosen)) == count
    assert radius(tuple(chosen)) <= 2 * best + 1e-5


def test_k_center_takes_each_row_once_and_stops_when_none_is_left() -> None:
    assert sorted(k_center(np.repeat(cloud(0, 2), 3, axis=0), 9)) == list(range(6))
    assert k_center(np.zeros((0, 3), np.float32), 2) == []


@given(st.integers(0, 99), st.floats(0.2, 0.99), st.integers(1, 40))
def test_no_two_that_are_taken_are_alike_and_each_left_out_has_its_like(
    seed: int, most: float, count: int
) -> None:
    vectors = cloud(seed, 40)
    order = np.random.default_rng(seed).permutation(40).tolist()
    taken = drop_near_duplicates(vectors, order, max_similarity=most)
    cosines = vectors @ vectors.T
    assert all(cosines[a, b] <= most for a, b in combinations(taken, 2))
    for row in set(order) - set(taken):
        before = [one for one in taken if order.index(one) < order.index(row)]
        assert cosines[row, before].max() > most
    assert drop_near_duplicates(vectors, order, max_similarity=most, count=count) == taken[:count]


def test_equal_vectors_are_never_more_than_equal() -> None:
    twice = np.concatenate([cloud(3, 50), cloud(3, 50)])
    assert len(drop_near_duplicates(twice, range(100), max_similarity=1.0)) == 100


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, test_set = cloud(1, 60), cloud(2, 5)
    whole = drop_near_duplicates(vectors, range(60), max_similarity=0.8, away_from=test_set)
    assert (vectors[whole] @ test_set.T).max() <= 0.8
    monkeypatch.setattr("coca.search.mining.selection._BLOCK", 7)
    assert drop_near_duplicates(vectors, range(60), max_similarity=0.8, away_from=test_set) == whole
