import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coca.search.query.vectors import VectorScan

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

SIZE = 32


def appended(scan: VectorScan, vectors: Matrix) -> VectorScan:
    return scan.replaced(len(scan) + np.arange(len(vectors)), vectors)


def rows_like_photos(count: int, seed: int = 0) -> Matrix:
    """Draw vectors in clusters and of lengths from 0 to 1, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, SIZE)).astype(np.float32)
    rows = centres[rng.integers(20, size=count)]
    rows = rows + 0.3 * rng.standard_normal(rows.shape).astype(np.float32)
    rows *= rng.random((count, 1), dtype=np.float32) / np.linalg.norm(rows, axis=1, keepdims=True)
    rows[count // 2 : count // 2 + count // 50] = rows[: count // 50]
    rows[-1:] = 0
    return rows.astype(np.float32)


def best(
    rows: Matrix, query: np.ndarray, k: int, kept: np.ndarray | None = None
) -> tuple[list[int], list[float]]:
    """Rank all rows by float64 dot products, rounded to float32, ties by row."""
    scores = (rows.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    among = range(len(rows)) if kept is None else np.flatnonzero(kept).tolist()
    order = sorted(among, key=lambda row: (-scores[row], row))[:k]
    return order, [float(scores[row]) for row in order]


def check(scan: VectorScan, rows: Matrix, queries: Matrix, k: int, kept: np.ndarray | None) -> None:
    found, scores = scan.top(queries, k, kept=kept)
    for query, some, values in zip(queries, found, scores, strict=True):
        expected, expected_scores = best(rows, query, k, kept)
        assert some.tolist() == expected
        assert values.tolist() == expected_scores


ROWS = rows_like_photos(12_000)
SCAN = VectorScan(ROWS)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([1, 2, 10, 100, 2_900, 3_100, 20_000]),
    st.sampled_from([None, 0.0, 0.001, 0.1, 0.24, 0.26, 0.9, 1.0]),
    st.booleans(),
)
def test_results_are_those_of_a_search_of_all_float32_rows(
    seed: int, queries: int, k: int, share: float | None, in_one_piece: bool
) -> None:
    rng = np.random.default_rng(seed)
    asked = rng.standard_normal((queries, SIZE)).astype(np.float32) * rng.random()
    kept = None if share is None else rng.random(len(ROWS)) < share
    if kept is not None and in_one_piece:
        kept = np.sort(kept)
    check(SCAN, ROWS, asked.astype(np.float32), k, kept)


def test_a_kept_tail_smaller_than_the_groups_wanted_is_found() -> None:
    kept = np.arange(len(ROWS)) >= 0.74 * len(ROWS)
    for k in (1, 5, 20, 23, 24, 60):
        check(SCAN, ROWS, ROWS[:3], k, kept)


@pytest.mark.parametrize("size", [1, 3, 64, 200, 256, 1536])
def test_any_number_of_dimensions_is_searched(size: int) -> None:
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((3_000, size)).astype(np.float32)
    check(VectorScan(rows), rows, rows[:5], 10, None)
    check(VectorScan(rows), rows, rows[:1], 10, None)


def test_rows_in_many_orders_of_magnitude_are_ranked_exactly() -> None:
    scales = 10.0 ** np.random.default_rng(3).uniform(-12, 3, (5_000, 1))
    rows = (rows_like_photos(5_000) * scales).astype(np.float32)
    check(VectorScan(rows), rows, rows_like_photos(3, seed=4), 10, None)


def test_nearly_equal_rows_are_ranked_exactly() -> None:
    noise = np.random.default_rng(5).standard_normal((5_000, SIZE)).astype(np.float32)
    rows = (ROWS[:1] + 1e-4 * noise).astype(np.float32)
    check(VectorScan(rows), rows, ROWS[:2], 10, None)


def test_a_query_of_zeros_returns_the_first_rows() -> None:
    rows, scores = SCAN.top(np.zeros((1, SIZE), np.float32), 3)
    assert rows.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[0.0, 0.0, 0.0]]


def test_a_batch_returns_what_single_queries_return() -> None:
    queries = rows_like_photos(37, seed=1)
    rows, scores = SCAN.top(queries, 10)
    single = [SCAN.top(query[None], 10) for query in queries]
    assert rows.tolist() == [one[0].tolist() for one, _ in single]
    assert scores.tolist() == [one[0].tolist() for _, one in single]


def test_no_query_and_no_row_have_no_result() -> None:
    nothing = np.zeros((0, SIZE), np.float32)
    assert SCAN.top(nothing, 10)[0].shape == (0, 10)
    assert VectorScan(nothing).top(ROWS[:2], 10)[0].shape == (2, 0)


def test_an_empty_set_is_saved(tmp_path: Path) -> None:
    VectorScan(np.zeros((0, SIZE), np.float32)).save(tmp_path / "vectors")
    grown = appended(VectorScan.open(tmp_path / "vectors"), ROWS[:5])
    check(grown, ROWS[:5], ROWS[:2], 3, None)


def test_a_set_is_saved_over_itself(tmp_path: Path) -> None:
    SCAN.save(tmp_path / "vectors")
    opened = VectorScan.open(tmp_path / "vectors")
    appended(opened, ROWS[:1]).save(tmp_path / "vectors")
    check(opened, ROWS, ROWS[:2], 10, None)
    assert len(VectorScan.open(tmp_path / "vectors")) == len(ROWS) + 1


writes = st.lists(
    st.tuples(st.lists(st.integers(0, 12_020), unique=True, max_size=8), st.integers(0, 9)),
    max_size=4,
)


@settings(deadline=None, max_examples=30)
@given(writes, st.sampled_from([None, 0.01, 0.5]), st.integers(1, 3))
def test_written_rows_are_those_of_a_new_set(
    writes: list[tuple[list[int], int]], share: float | None, queries: int
) -> None:
    rows, scan = ROWS, SCAN
    for seed, (replaced, added) in enumerate(writes):
        at = np.array([row for row in replaced if row < len(rows)], np.int64)
        rows = np.concatenate([rows, rows_like_photos(added, seed=100 + seed)])
        rows[at] = rows_like_photos(len(at), seed=200 + seed)
        scan = appended(scan, rows[len(scan) :]).replaced(at, rows[at])
    assert len(scan) == len(rows)
    kept = None if share is None else np.random.default_rng(7).random(len(rows)) < share
    check(scan, rows, rows[-queries:] + ROWS[:queries], 10, kept)
    some = np.arange(len(rows))[::-7]
    exact = rows[some].astype(np.float64) @ ROWS[0].astype(np.float64)
    assert scan.scores_of(ROWS[0], some).tolist() == exact.astype(np.float32).tolist()


def test_a_write_leaves_the_set_before_it_unchanged() -> None:
    written = SCAN.replaced(np.array([3]), 1_000 * ROWS[:1])
    assert written.top(ROWS[:1], 1)[0].tolist() == [[3]]
    check(SCAN, ROWS, ROWS[:1], 10, None)
    assert (SCAN.written, written.written) == (0, 1)


def test_written_rows_are_merged_when_saved(tmp_path: Path) -> None:
    new = rows_like_photos(20, seed=8)
    rows = np.concatenate([ROWS, new[10:]])
    rows[500:510] = new[:10]
    scan = appended(SCAN.replaced(np.arange(500, 510), new[:10]), new[10:])
    scan.save(tmp_path / "vectors")
    opened = VectorScan.open(tmp_path / "vectors")
    assert opened.written == 0
    check(opened, rows, rows[498:503], 10, None)


def test_threads_share_a_set() -> None:
    queries = rows_like_photos(8, seed=9)
    found: dict[int, list[list[int]]] = {}

    def search(number: int) -> None:
        found[number] = SCAN.top(queries[number : number + 1], 10)[0].tolist()

    threads = [threading.Thread(target=search, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number][0] for number in range(8)] == [best(ROWS, q, 10)[0] for q in queries]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, -2.0, 0.0, 0.1, 0.7, 2.0]),
    st.lists(st.integers(0, 12_000), unique=True, max_size=8),
)
def test_rows_of_at_least_a_score_are_those_that_float64_finds(
    seed: int, least: float | None, written: list[int]
) -> None:
    query, *new = rows_like_photos(1 + len(written), seed)
    rows, scan = np.concatenate([ROWS, ROWS[:1]]), appended(SCAN, ROWS[:1])
    if new:
        rows[written] = new
        scan = scan.replaced(np.array(written, np.int64), np.array(new))
    scores = (rows.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    if least is None:
        least = float(scores[seed % len(scores)])
    assert scan.at_least(query, least).tolist() == (scores >= least).tolist()
