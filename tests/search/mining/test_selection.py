from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, SearchError
from coca.search.mining.selection import (
    choose,
    drop_near_duplicates,
    entropy,
    k_center,
    mmr,
    similarity,
)
from coca.search.search_options import Choice


def cloud(seed: int, rows: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, 4))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_doubt_is_the_entropy_of_the_softmax_by_hand() -> None:
    vectors, classes = cloud(0, 20), cloud(1, 5)
    odds = np.exp(7.0 * vectors.astype(float) @ classes.T)
    p = odds / odds.sum(axis=1, keepdims=True)
    expected_entropy = entropy(vectors, classes, logit_scale=7.0)
    assert expected_entropy == pytest.approx(-(p * np.log(p)).sum(axis=1), abs=1e-5)
    sure = entropy(np.eye(4, dtype=np.float32)[:1], np.eye(4)[:2], logit_scale=1_000.0)
    assert sure == pytest.approx([0.0], abs=1e-6)
    unsure = entropy(np.eye(4, dtype=np.float32)[2:3], np.eye(4)[:2], logit_scale=1_000.0)
    assert unsure == pytest.approx([np.log(2)], abs=1e-6)


def test_likeness_is_that_to_the_nearest_example() -> None:
    vectors, examples = cloud(0, 9), cloud(1, 3)
    by_hand = [max(float(v @ e) for e in examples) for v in vectors]
    assert similarity(vectors, examples) == pytest.approx(by_hand, abs=1e-6)


@given(st.integers(0, 50), st.integers(1, 30))
def test_the_best_are_chosen_first(seed: int, count: int) -> None:
    vectors, scores = cloud(seed, 20), np.random.default_rng(seed).random(20)
    chosen = choose(vectors, Choice(count=count), scores=scores)
    assert chosen == np.argsort(-scores)[:count].tolist()
    some = choose(vectors, Choice(count=count, min_score=0.5), scores=scores)
    assert some == [row for row in chosen if scores[row] >= 0.5]
    half = choose(vectors, Choice(fraction=count / 60), scores=scores)
    assert half == chosen[: max(1, round(count / 3))]


def test_copies_are_passed_over_and_a_test_set_is_kept_away_from() -> None:
    vectors = cloud(0, 6)[[0, 0, 1, 1, 2, 3, 4, 5]]
    apart = Choice(count=8, max_similarity=0.999)
    assert choose(vectors, apart) == [0, 2, 4, 5, 6, 7]
    assert choose(vectors, apart, away_from=vectors[[2, 7]]) == [0, 4, 5, 6]
    with pytest.raises(SearchError, match="max_similarity"):
        choose(vectors, Choice(count=8), away_from=vectors[:1])


def test_spreading_out_stays_among_the_best() -> None:
    vectors, scores = cloud(0, 40), np.arange(40.0)
    chosen = choose(vectors, Choice(count=5, pool=2, diverse=True), scores=scores)
    assert len(set(chosen)) == 5
    assert min(chosen) >= 30
    everywhere = choose(vectors, Choice(count=5, diverse=True))
    assert (vectors @ vectors[everywhere].T).max(axis=1).min() > (
        (vectors @ vectors[:5].T).max(axis=1).min()
    )


def test_a_choice_that_makes_no_sense_is_refused() -> None:
    for count, fraction in ((None, None), (1, 0.5)):
        with pytest.raises(ConfigError, match="by either count or fraction"):
            Choice(count=count, fraction=fraction)


@given(st.integers(0, 99), st.floats(0, 1), st.integers(1, 12))
def test_marginal_relevance_is_the_greatest_of_the_formula(
    seed: int, diversity: float, count: int
) -> None:
    vectors, relevance = cloud(seed, 10), np.random.default_rng(seed).random(10)
    chosen = mmr(vectors, relevance, count, diversity=diversity)
    left = set(range(10))
    before: list[int] = []
    for row, gain in chosen:
        by_hand = {}
        for one in left:
            nearest = max((float(vectors[one] @ vectors[other]) for other in before), default=-1.0)
            by_hand[one] = (1 - diversity) * relevance[one] - diversity * nearest
        assert gain == pytest.approx(by_hand[row], abs=1e-6)
        assert gain == pytest.approx(max(by_hand.values()), abs=1e-6)
        left.remove(row)
        before.append(row)
    assert len(before) == min(count, 10)


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
