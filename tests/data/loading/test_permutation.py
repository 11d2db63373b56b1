import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coca.data.loading.permutation import mix, permute

sizes = st.integers(1, 700)
seeds = st.integers(0, 2**63)


def words(*numbers: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


@given(size=sizes, seed=seeds)
def test_every_position_is_reached_exactly_once(size: int, seed: int) -> None:
    landed = permute(np.arange(size, dtype=np.uint64), words(size), mix(seed))
    assert sorted(landed.tolist()) == list(range(size))


@given(size=st.integers(1, 2**62), seed=seeds, position=st.integers(0, 2**62))
def test_a_position_stays_inside_ranges_of_any_size(size: int, seed: int, position: int) -> None:
    landed = permute(words(position % size), words(size), mix(seed))
    assert 0 <= int(landed[0]) < size


@given(size=sizes, seed=seeds)
def test_a_position_is_permuted_alike_alone_or_among_others(size: int, seed: int) -> None:
    together = permute(np.arange(size, dtype=np.uint64), words(size), mix(seed))
    alone = permute(words(size // 2), words(size), mix(seed))
    assert alone[0] == together[size // 2]


def test_each_position_may_have_its_own_size_and_key() -> None:
    positions, own_sizes, keys = words(3, 3, 90), words(10, 50, 91), mix(np.array([1, 2, 3]))
    together = permute(positions, own_sizes, keys)
    alone = [
        permute(positions[i : i + 1], own_sizes[i : i + 1], keys[i : i + 1])[0] for i in range(3)
    ]
    assert together.tolist() == alone


def test_another_key_gives_another_order() -> None:
    positions = np.arange(1000, dtype=np.uint64)
    first, second = (permute(positions, words(1000), mix(seed)) for seed in (1, 2))
    # Two random orders of 1,000 agree in one position on average.
    assert (first == second).sum() < 10


def test_a_shuffle_leaves_no_trend() -> None:
    landed = permute(np.arange(10_000, dtype=np.uint64), words(10_000), mix(5)).astype(float)
    neighbours = np.corrcoef(landed[:-1], landed[1:])[0, 1]
    positions = np.corrcoef(np.arange(10_000), landed)[0, 1]
    # Four standard errors of the correlation of independent numbers.
    assert abs(neighbours) < 0.04
    assert abs(positions) < 0.04


def test_small_ranges_reach_every_order() -> None:
    positions = np.arange(3, dtype=np.uint64)
    orders = {tuple(permute(positions, words(3), mix(seed)).tolist()) for seed in range(200)}
    assert len(orders) == 6


def test_the_order_of_parts_matters_to_a_key() -> None:
    keys = {int(mix(*parts)[0]) for parts in ((1, 2), (2, 1), (1,), (2,), (1, 2, 0), (0, 1, 2))}
    assert len(keys) == 6
