import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError, SearchError
from coca.search.mining.selection import Choice, choose, entropy, similarity


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
    with pytest.raises(ConfigError, match="at least 1"):
        Choice(count=0)
    with pytest.raises(ConfigError, match="max_similarity"):
        Choice(count=1, max_similarity=1.5)
