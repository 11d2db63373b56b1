import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.ranking import FLOOR_DEVIATIONS, Spread, TypedQuery, parts_of
from coca.search.search_options import Ranking

COSINE = st.floats(-1, 1, width=32)
FRACTION = st.floats(0, 1)
SPREADS = (Spread(0.45, 0.06), Spread(0.5, 0.05))


def scores(image: float, caption: float, bm25: float, text: float, floor: float) -> float:
    columns = (np.array([image]), np.array([caption]), np.array([[bm25, text]], np.float64))
    return float(sum(part[0] for part in parts_of(*columns, Ranking(), floor).values()))


@given(COSINE, COSINE, st.floats(0, 30), st.floats(0, 4), FRACTION)
def test_each_part_can_only_add(
    image: float, caption: float, bm25: float, text: float, captioned: float
) -> None:
    floor = TypedQuery(np.ones(2, np.float32), "", SPREADS).caption_floor(captioned)
    alone = scores(image, np.nan, 0.0, 0.0, floor)
    assert alone == pytest.approx(image)
    assert scores(image, caption, 0.0, 0.0, floor) >= alone
    assert scores(image, np.nan, bm25, text, floor) >= alone
    if caption <= floor:
        assert scores(image, caption, bm25, text, floor) == scores(image, np.nan, bm25, text, floor)


@given(FRACTION, FRACTION)
def test_the_floor_falls_with_the_fraction_of_captioned_images(one: float, other: float) -> None:
    query = TypedQuery(np.ones(2, np.float32), "", SPREADS)
    assert (query.caption_floor(one) >= query.caption_floor(other)) or one > other
    assert query.caption_floor(0.0) == pytest.approx(0.5 + FLOOR_DEVIATIONS * 0.05)
    assert query.caption_floor(1.0) == 0.5
