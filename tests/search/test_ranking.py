import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.ranking import fused_scores
from coca.search.search_options import Ranking

COSINES = st.floats(-1, 1)
RECORD = st.tuples(
    COSINES, st.one_of(COSINES, st.just(math.nan)), st.floats(0, 40), st.floats(0, 1)
)


def score_by_hand(
    image: float, caption: float, bm25: float, share: float, ranking: Ranking
) -> float:
    score = ranking.image_weight * image + ranking.text_weight * share**4
    if math.isnan(caption):
        score += ranking.caption_weight * ranking.uncaptioned * image
    else:
        score += ranking.caption_weight * caption
    return score + ranking.words_weight * bm25 / (bm25 + ranking.words_half)


def fused(records: list[tuple[float, float, float, float]], ranking: Ranking) -> list[float]:
    parts = np.array(records, np.float64).reshape(-1, 4)
    return fused_scores(parts[:, 0], parts[:, 1], parts[:, 2:], ranking).tolist()


@given(st.lists(RECORD, max_size=9))
def test_the_score_is_a_sum_of_absolute_similarities(
    records: list[tuple[float, float, float, float]],
) -> None:
    for ranking in (
        Ranking(),
        Ranking(
            image_weight=1.0, caption_weight=2.0, words_weight=3.0, words_half=0.5, uncaptioned=0.0
        ),
    ):
        expected = [score_by_hand(*record, ranking) for record in records]
        assert fused(records, ranking) == pytest.approx(expected, abs=1e-9)
