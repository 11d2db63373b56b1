import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import ConfigError
from coca.data.loading.mixture import GROUP_BLOCKS, MAX_PERIOD, Mixture, mix, permute, whole_weights

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


def test_a_shuffle_leaves_no_trend() -> None:
    landed = permute(np.arange(10_000, dtype=np.uint64), words(10_000), mix(5)).astype(float)
    neighbours = np.corrcoef(landed[:-1], landed[1:])[0, 1]
    positions = np.corrcoef(np.arange(10_000), landed)[0, 1]
    # Four standard errors of the correlation of independent numbers.
    assert abs(neighbours) < 0.04
    assert abs(positions) < 0.04


def test_the_order_of_parts_matters_to_a_key() -> None:
    keys = {int(mix(*parts)[0]) for parts in ((1, 2), (2, 1), (1,), (2,), (1, 2, 0), (0, 1, 2))}
    assert len(keys) == 6


weight_lists = st.lists(st.integers(1, 60).map(float), min_size=1, max_size=6)


@given(weights=weight_lists)
def test_every_prefix_holds_its_share_of_each_source_to_less_than_one(weights: list[float]) -> None:
    count = int(2 * sum(weights)) + 7
    source = Mixture([5] * len(weights), weights, seed=0).draw(np.arange(count)).source
    for number, weight in enumerate(weights):
        drawn = np.cumsum(source == number)
        due = np.arange(1, count + 1) * weight / sum(weights)
        assert np.abs(drawn - due).max() < 1


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3),
    block=st.integers(1, 9),
    seed=st.integers(0, 2**63),
)
def test_each_epoch_holds_every_row_of_a_source_once(
    sizes: list[int], block: int, seed: int
) -> None:
    mixture = Mixture(sizes, list(map(float, sizes)), seed=seed, block_sizes=[block] * len(sizes))
    drawn = mixture.draw(np.arange(3 * sum(sizes)))
    for number, size in enumerate(sizes):
        of_source = drawn.source == number
        for epoch in range(3):
            rows = drawn.position[of_source & (drawn.epoch == epoch)]
            assert sorted(rows.tolist()) == list(range(size))


@given(start=st.integers(0, 2**50), count=st.integers(1, 50))
def test_a_draw_does_not_depend_on_what_is_drawn_with_it(start: int, count: int) -> None:
    mixture = Mixture([90, 1000], [0.3, 0.7], seed=3, block_sizes=[1, 7])
    together = mixture.draw(np.arange(start, start + count))
    for index in (0, count - 1):
        alone = mixture.draw(start + index)
        assert [int(part) for part in alone] == [int(part[index]) for part in together]


def test_seed_epoch_and_source_each_change_the_order() -> None:
    indices = np.arange(2000)
    mixture = Mixture([500, 500], [1.0, 1.0], seed=1)
    first, other = (m.draw(indices) for m in (mixture, Mixture([500, 500], [1.0, 1.0], seed=2)))
    orders = [
        tuple(draw.position[(draw.source == source) & (draw.epoch == epoch)].tolist())
        for draw in (first, other)
        for source in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 8


def test_blocks_keep_neighbouring_draws_near_one_another() -> None:
    size, block = 100_000, 100
    position = Mixture([size], [1.0], seed=0, block_sizes=[block]).draw(np.arange(size)).position
    blocks_in_window = len(set((position[: GROUP_BLOCKS * block] // block).tolist()))
    # Blocks begin at a shifted row, so that each touches two of the counted ones.
    assert blocks_in_window <= 2 * GROUP_BLOCKS
    # Within the window the order is still shuffled.
    assert np.median(np.abs(np.diff(position[:2000]))) > block


def test_rows_that_fill_no_block_do_not_always_come_last() -> None:
    position = Mixture([103], [1.0], seed=0, block_sizes=[10]).draw(np.arange(103 * 20)).position
    last_rows = {int(row) for epoch in position.reshape(20, 103) for row in epoch[-3:]}
    assert len(last_rows) > 20


def test_a_spare_row_is_never_offered_twice_until_the_source_is_through() -> None:
    mixture = Mixture([4, 30], [1.0, 1.0], seed=0)
    for index in range(8):
        size = [4, 30][int(mixture.draw(index).source)]
        spares = [mixture.spare(index, attempt) for attempt in range(size + 1)]
        assert sorted(spares[:-1]) == list(range(size))
        assert spares[-1] == spares[0]


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([0.1, 0.2], (1, 2)),
        ([1.0, 1.0], (1, 1)),
        ([0.5, 0.25, 0.25], (2, 1, 1)),
        ([6000.0], (1,)),
        ([1e-3, 3e-3], (1, 3)),
    ],
)
def test_weights_are_read_as_the_numbers_that_are_written(
    weights: list[float], whole: tuple[int, ...]
) -> None:
    assert whole_weights(weights) == whole


def test_weights_without_a_short_period_are_rounded_to_the_longest() -> None:
    weights = [0.123456789, 7.654321]
    whole = whole_weights(weights)
    assert sum(whole) <= MAX_PERIOD
    assert whole[0] / sum(whole) == pytest.approx(weights[0] / sum(weights), abs=1 / MAX_PERIOD)


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ([1.0, 0.0], "above 0"),
        ([-1.0], "above 0"),
        ([float("inf"), 1.0], "finite"),
        ([float("nan")], "above 0"),
        ([1e-9, 1.0], "never be drawn"),
    ],
)
def test_impossible_weights_are_refused(weights: list[float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Mixture([1] * len(weights), weights, seed=0)


@pytest.mark.parametrize("sizes", [[], [3, 0]])
def test_an_empty_source_is_refused(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match="each needs a sample"):
        Mixture(sizes, [1.0] * len(sizes), seed=0)
