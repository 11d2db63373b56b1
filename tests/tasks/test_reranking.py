import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coca.tasks.reranking import best_of_each_row, reranked


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (5, 7)), generator.normal(-20, 5, (5, 7))


@given(seed=st.integers(0, 100), k=st.integers(1, 9))
def test_the_best_of_each_row_are_above_the_others(seed: int, k: int) -> None:
    similarity, _ = draw(seed)
    marked = best_of_each_row(similarity, k)
    assert (marked.sum(axis=1) == min(k, 7)).all()
    lowest = similarity.min(axis=1, where=marked, initial=np.inf)
    assert (similarity.max(axis=1, where=~marked, initial=-np.inf) < lowest).all()


@given(seed=st.integers(0, 100), k=st.integers(1, 6))
def test_scored_pairs_come_first_and_the_others_keep_their_order(seed: int, k: int) -> None:
    similarity, log_p = draw(seed)
    scored = best_of_each_row(similarity, k)
    found = reranked(similarity, np.where(scored, log_p, -np.inf), logit_scale=10.0)
    assert np.isfinite(found).all()
    assert found[scored].min() > found[~scored].max()
    order = np.argsort(similarity[~scored])
    assert (np.diff(found[~scored][order]) > 0).all()


def test_a_text_that_is_likely_for_every_image_gains_nothing() -> None:
    similarity, log_p = draw(0)
    common = log_p.copy()
    common[:, 2] += 30
    one, other = (reranked(similarity, scores, logit_scale=10.0) for scores in (log_p, common))
    np.testing.assert_allclose(one, other)


def test_the_new_order_is_that_of_cosine_and_likelihood_together() -> None:
    similarity = np.array([[0.5, 0.4], [0.3, 0.6]])
    log_p = np.log(np.array([[0.1, 0.4], [0.3, 0.4]]))
    wanted = 2 * similarity + log_p - np.log([0.2, 0.4])
    np.testing.assert_allclose(reranked(similarity, log_p, logit_scale=2.0), wanted)
