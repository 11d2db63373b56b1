import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import SearchError
from coca.search.duplicates import Pair, groups_of, near_duplicates, to_drop


def cloud(seed: int, rows: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [4, 2_048])
@given(seed=st.integers(0, 50), least=st.floats(0.3, 1))
def test_pairs_are_those_of_a_double_loop(block: int, seed: int, least: float) -> None:
    vectors, others = cloud(seed, 13), cloud(seed + 1, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coca.search.duplicates._BLOCK", block)
        within = near_duplicates(vectors, least=least)
        across = near_duplicates(vectors, others, least=least)
    bound = min(least, 1 - 1e-6)
    assert {(p.first, p.second) for p in within} == {
        (a, b) for b in range(13) for a in range(b) if vectors[a] @ vectors[b] >= bound
    }
    assert {(p.first, p.second) for p in across} == {
        (a, b) for a in range(13) for b in range(7) if vectors[a] @ others[b] >= bound
    }
    assert [p.score for p in across] == sorted((p.score for p in across), reverse=True)


def test_equal_pictures_are_found_at_a_cosine_of_1() -> None:
    vectors = cloud(0, 5)[[0, 1, 1, 2, 0]]
    assert [(pair.first, pair.second) for pair in near_duplicates(vectors, least=1.0)] == [
        (0, 4),
        (1, 2),
    ]


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda p: p[0] < p[1])))
def test_groups_are_what_pairs_connect(edges: set[tuple[int, int]]) -> None:
    groups = groups_of(Pair(a, b, 1.0) for a, b in edges)
    # By hand: spread the least name until nothing changes.
    name = {row: row for edge in edges for row in edge}
    for _ in range(10):
        for a, b in edges:
            name[a] = name[b] = min(name[a], name[b])
    by_hand: dict[int, set[int]] = {}
    for row, least in name.items():
        by_hand.setdefault(least, set()).add(row)
    assert sorted(map(sorted, groups)) == sorted(map(sorted, by_hand.values()))
    left = set(name) - set(to_drop(groups))
    assert len(left) == len(groups)


def test_a_bound_that_makes_no_sense_is_refused() -> None:
    for wrong in (0.0, 1.1):
        with pytest.raises(SearchError, match="above 0 to 1"):
            near_duplicates(cloud(0, 2), least=wrong)
