import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.search.sqlite.codes import BLOCK_ROWS, Codes, margins, products

SIZE = 24


def rows_of(seed: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Draw rows of lengths from 1e-6 to 1, some of zeros."""
    rng = np.random.default_rng(seed)
    lengths = 10.0 ** rng.uniform(-6, 0, (count, 1)) * (rng.random((count, 1)) < 0.9)
    rows = rng.standard_normal((count, SIZE)) ** rng.choice([1, 3])
    return (lengths * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 5))
def test_the_products_of_codes_are_within_the_margins(seed: int, count: int, queries: int) -> None:
    rows, asked = rows_of(seed, count), rows_of(seed + 1, queries)
    codes, some = Codes.of(rows), np.zeros((1, BLOCK_ROWS), bool)
    some[0, :count] = np.random.default_rng(seed).random(count) < seed % 3 / 2
    chosen = np.flatnonzero(some)
    found = products([codes], Codes.of(asked), some)
    for query, near in zip(asked, found[:, 0], strict=True):
        exact = rows[chosen].astype(np.float64) @ query.astype(np.float64)
        assert np.all(np.abs(near[chosen] - exact) <= margins(query, codes.limits[np.newaxis]))


def test_scores_of_long_vectors_are_within_half_of_the_margin() -> None:
    rng = np.random.default_rng(0)
    for size in (64, 256, 1024):
        centers = rng.standard_normal((9, size))
        kinds = (
            rng.standard_normal((BLOCK_ROWS, size)),
            centers[rng.integers(9, size=BLOCK_ROWS)] + rng.random((BLOCK_ROWS, size)),
            rng.standard_normal((BLOCK_ROWS, size)) ** 5,
        )
        for rows in kinds:
            rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
            codes, some = Codes.of(rows), np.ones((1, BLOCK_ROWS), bool)
            found = products([codes], Codes.of(rows[:8]), some)[:, 0]
            for query, near in zip(rows[:8], found, strict=True):
                exact = rows.astype(np.float64) @ query.astype(np.float64)
                (margin,) = margins(query, codes.limits[np.newaxis])
                assert np.abs(near - exact).max() <= margin / 2


@given(st.integers(0, 99), st.integers(0, 40))
def test_stored_codes_are_read_without_a_copy(seed: int, count: int) -> None:
    codes = Codes.of(rows_of(seed, count))
    read = Codes.from_bytes(codes.to_bytes(), SIZE)
    for name in ("values", "scales", "limits"):
        assert np.array_equal(getattr(read, name), getattr(codes, name))
        assert not getattr(read, name).flags.owndata


def test_replaced_rows_are_those_of_new_codes() -> None:
    old, new = rows_of(1, 20), rows_of(2, 10)
    at = np.array([3, 7, 21, 22, 23, 24, 25, 26, 27, 28])
    rows = np.zeros((30, SIZE), np.float32)
    rows[:20] = old
    rows[at] = new
    changed = list(zip(at.tolist(), Codes.of(new).to_rows(), strict=True))
    replaced, expected = Codes.of(old).replaced(changed, 30), Codes.of(rows)
    assert np.array_equal(replaced.values, expected.values)
    assert replaced.scales[at] == pytest.approx(expected.scales[at])
    assert np.all(replaced.limits >= expected.limits)
