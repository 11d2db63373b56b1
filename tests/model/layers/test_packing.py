from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coca.model.layers.packing import BUCKET_COST, Packing

lengths_of_a_batch = st.lists(st.integers(3, 40), min_size=1, max_size=30)


def rows_computed(packing: Packing) -> int:
    return sum(packing.sizes) + BUCKET_COST * len(packing.buckets)


@given(lengths_of_a_batch)
def test_each_token_has_one_row_and_its_caption_follows_it(lengths: list[int]) -> None:
    packing = Packing.of(torch.tensor(lengths))
    for caption, length in enumerate(lengths):
        rows = packing.offsets[caption] + torch.arange(length)
        assert (packing.captions[rows] == caption).all()
        assert packing.positions[rows].tolist() == list(range(length))
    assert sorted(packing.order.tolist()) == list(range(len(lengths)))


@given(lengths_of_a_batch)
def test_buckets_hold_their_captions_without_padding_for_one_length(lengths: list[int]) -> None:
    packing = Packing.of(torch.tensor(lengths))
    held = [0]
    for bucket in packing.buckets:
        assert bucket.first == sum(held)
        held.append(bucket.captions)
        members = packing.order[bucket.first : bucket.first + bucket.captions]
        assert max(lengths[caption] for caption in members) == bucket.length
    assert sum(held) == len(lengths)
    same = Packing.of(torch.full((5,), lengths[0]))
    assert same.sizes == [5 * lengths[0]]


@given(st.lists(st.integers(3, 30), min_size=1, max_size=7))
def test_no_other_cut_costs_less(lengths: list[int]) -> None:
    ordered, count = sorted(lengths), len(lengths)
    cheapest = min(
        sum(
            BUCKET_COST + (end - begin) * ordered[end - 1]
            for begin, end in zip((0, *cuts), (*cuts, count), strict=True)
        )
        for size in range(count)
        for cuts in combinations(range(1, count), size)
    )
    assert rows_computed(Packing.of(torch.tensor(lengths))) == cheapest


@pytest.fixture
def packing() -> Packing:
    return Packing.of(torch.tensor([30, 4, 5, 4, 29]))


@pytest.fixture
def rows(packing: Packing) -> Tensor:
    return torch.arange(2.0 * sum(packing.sizes)).reshape(-1, 2)


def test_splitting_and_joining_is_a_round_trip(packing: Packing, rows: Tensor) -> None:
    parts = packing.split(rows)
    assert len(parts) == 2
    assert parts[0].data_ptr() == rows.data_ptr(), "a bucket is a view, not a copy"
    assert torch.equal(packing.join(parts), rows)


def test_shortened_rows_are_those_of_the_shortened_packing(packing: Packing, rows: Tensor) -> None:
    less, inner = packing.shorten(rows, 2), packing.shortened(2)
    assert len(less) == sum(inner.sizes) == sum(packing.sizes) - 2 * 5
    for caption, length in enumerate([30, 4, 5, 4, 29]):
        kept = torch.arange(length - 2)
        assert torch.equal(
            less[inner.offsets[caption] + kept], rows[packing.offsets[caption] + kept]
        )


def test_picked_rows_come_caption_by_caption(packing: Packing) -> None:
    wanted = torch.zeros(5, 30, dtype=torch.bool)
    wanted[3, 1] = wanted[0, 29] = wanted[0, 2] = True
    picked = packing.rows(wanted)
    assert packing.captions[picked].tolist() == [0, 0, 3]
    assert packing.positions[picked].tolist() == [2, 29, 1]


def test_tensors_in_sorted_order_are_split_by_bucket(packing: Packing) -> None:
    images = torch.arange(5)[packing.order]
    shares = [share.tolist() for (share,) in packing.split_by_bucket([images])]
    assert shares == [[1, 3, 2], [4, 0]]
