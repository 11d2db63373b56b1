import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coca.search.ranking import Spread, TypedQuery, parts_of
from coca.search.records import Record
from coca.search.search_options import GroupBy, Ranking, SearchOptions, Side
from coca.search.sqlite.codes import BLOCK_ROWS, Codes
from coca.search.sqlite.scan import EXISTS, GIVEN, HAS_TEXT, HIDDEN, Block, Scan
from coca.search.sqlite.selection import Words
from coca.search.stores import open_store

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
SIZE = 32
SPREADS = (Spread(0.0, 0.05), Spread(-0.1, 0.15))
GROUPS: tuple[GroupBy, ...] = ("image", "album", "path")


def vectors_like_photos(count: int, seed: int = 0, size: int = SIZE) -> Matrix:
    """Draw vectors of length 1 in clusters, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, size))
    rows = centres[rng.integers(20, size=count)] + 0.5 * rng.standard_normal((count, size))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[count // 2 : count // 2 + count // 50] = rows[: count // 50]
    return rows.astype(np.float32)


def padded(scan: Scan, keep: np.ndarray | None) -> np.ndarray | None:
    """Pad a mask to whole blocks."""
    return None if keep is None else np.append(keep, np.zeros(len(scan) - len(keep), bool))


class Rows:
    """Rows of a collection: its blocks, the reader of a scan, and an exhaustive search."""

    def __init__(self, count: int, seed: int = 0, *, size: int = SIZE) -> None:
        rng = np.random.default_rng(seed)
        flags = EXISTS * (rng.random(count) < 0.95) + HIDDEN * (rng.random(count) < 0.05)
        flags += HAS_TEXT * (rng.random(count) < 0.6) + GIVEN * (rng.random(count) < 0.5)
        self.flags = flags.astype(np.uint8)
        self.contents = rng.integers(0, max(count // 2, 2), count).astype(np.uint64)
        self.albums = rng.integers(0, 30, count).astype(np.uint64) * np.uint64(2**40)
        self.image = vectors_like_photos(count, seed + 1, size)
        self.text = vectors_like_photos(count, seed + 2, size)
        self.text[(self.flags & HAS_TEXT) == 0] = 0
        # Not in the order of rows.
        self.names = [f"{n * 7_919 % 100_003:06}" for n in range(count)]
        self.read = 0

    def vectors(self, rows: np.ndarray, on: Side) -> Matrix:
        self.read += len(rows)
        return (self.image if on == "image" else self.text)[rows]

    def ids(self, rows: np.ndarray) -> Sequence[str]:
        return [self.names[row] for row in rows]

    def block(self, number: int) -> Block:
        part = slice(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)
        return Block(
            self.flags[part],
            self.contents[part],
            self.albums[part],
            Codes.of(self.image[part]),
            Codes.of(self.text[part]),
        )

    def scan(self) -> Scan:
        count = math.ceil(len(self.flags) / BLOCK_ROWS)
        return Scan([self.block(number) for number in range(count)], self.image.shape[1])

    def cosines(self, query: np.ndarray, on: Side) -> np.ndarray[Any, np.dtype[np.float32]]:
        matrix = self.image if on == "image" else self.text
        return (matrix.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)

    def best(
        self, scores: np.ndarray, k: int, keep: np.ndarray | None, group_by: GroupBy
    ) -> list[int]:
        """Rank the groups of all rows, in float64."""
        searched = (self.flags & (EXISTS | HIDDEN)) == EXISTS
        if keep is not None:
            searched &= keep
        found: dict[object, int] = {}
        for row in sorted(
            np.flatnonzero(searched & ~np.isnan(scores)).tolist(),
            key=lambda row: (-round(float(scores[row]), 6), self.names[row]),
        ):
            key: object = ("row", row)
            if group_by == "album" and self.albums[row]:
                key = ("album", self.albums[row])
            elif group_by != "path" and self.contents[row]:
                key = ("image", self.contents[row])
            found.setdefault(key, row)
        return list(found.values())[:k]

    def check_nearest(
        self,
        scan: Scan,
        queries: Matrix,
        k: int,
        *,
        on: Side = "image",
        keep: np.ndarray | None = None,
        group_by: GroupBy = "path",
    ) -> None:
        options = SearchOptions(limit=k, on=on, group_by=group_by)
        answers = scan.nearest(queries, options, self, padded(scan, keep))
        for query, (rows, scores) in zip(queries, answers, strict=True):
            exact = self.cosines(query, on)
            possible = exact.astype(np.float64)
            if on == "text":
                possible[(self.flags & HAS_TEXT) == 0] = np.nan
            assert rows.tolist() == self.best(possible, k, keep, group_by)
            assert scores == pytest.approx(exact[rows], abs=1e-6)

    def check_ranked(
        self,
        scan: Scan,
        query: np.ndarray,
        k: int,
        ranking: Ranking,
        *,
        bm25: Words,
        text: Words,
        keep: np.ndarray | None,
        min_score: float | None,
        group_by: GroupBy,
    ) -> None:
        image, caption = self.cosines(query, "image"), self.cosines(query, "text")
        counts = (self.flags & (HAS_TEXT | GIVEN)) == HAS_TEXT | GIVEN
        caption = np.where(counts, caption, np.float32(np.nan))
        words = np.zeros((len(image), 2))
        for column, (rows, values) in enumerate((bm25, text)):
            words[rows, column] = values
        typed = TypedQuery(query, "", SPREADS)
        shown = (self.flags & (EXISTS | HIDDEN)) == EXISTS
        floor = typed.caption_floor(float((shown & counts).sum() / shown.sum()))
        scores = np.sum([*parts_of(image, caption, words, ranking, floor).values()], axis=0)
        if min_score is not None:
            scores[image < min_score] = np.nan
        best = self.best(scores, k, keep, group_by)
        found = scan.ranked(
            typed,
            ranking,
            SearchOptions(limit=k, min_score=min_score, group_by=group_by),
            self,
            padded(scan, keep),
            bm25=bm25,
            text=text,
        )
        assert found.rows.tolist() == best
        for part, exact in (
            (found.image, image),
            (found.caption, caption),
            (found.bm25, words[:, 0]),
            (found.text, words[:, 1]),
        ):
            assert part == pytest.approx(exact[best], abs=1e-6, nan_ok=True)


ROWS = Rows(13_000)
SCAN = ROWS.scan()
KEPT = st.sampled_from([None, 0.0, 0.001, 0.1, 0.24, 0.26, 0.9, 1.0])
K = st.sampled_from([1, 2, 10, 100, 2_900, 20_000])


def drawn(rng: np.random.Generator, share: float | None, in_one_piece: bool) -> np.ndarray | None:
    """Draw a mask of rows."""
    keep = None if share is None else rng.random(len(ROWS.flags)) < share
    return np.sort(keep) if keep is not None and in_one_piece else keep


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    K,
    KEPT,
    st.booleans(),
    st.sampled_from(["image", "text"]),
    st.sampled_from(GROUPS),
)
def test_nearest_rows_are_those_of_an_exhaustive_search(
    seed: int,
    queries: int,
    k: int,
    share: float | None,
    in_one_piece: bool,
    on: Side,
    group_by: GroupBy,
) -> None:
    rng = np.random.default_rng(seed)
    asked = rng.standard_normal((queries, SIZE)).astype(np.float32) * np.float32(rng.random())
    keep = drawn(rng, share, in_one_piece)
    ROWS.check_nearest(SCAN, asked, k, on=on, keep=keep, group_by=group_by)


WEIGHT = st.sampled_from([0.0, 0.1, 0.4, 1.0, 10.0])


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=K,
    ranking=st.builds(
        Ranking,
        image_weight=WEIGHT,
        caption_weight=WEIGHT,
        words_weight=WEIGHT,
        text_weight=WEIGHT,
        captions=st.sampled_from(["all", "given"]),
    ),
    worded=st.sampled_from([0.0, 0.001, 0.3]),
    share=KEPT,
    min_score=st.sampled_from([None, -1.0, 0.0, 0.2, 0.5, 1.0]),
    group_by=st.sampled_from(GROUPS),
)
def test_a_ranking_is_that_of_an_exhaustive_search(
    seed: int,
    k: int,
    ranking: Ranking,
    worded: float,
    share: float | None,
    min_score: float | None,
    group_by: GroupBy,
) -> None:
    rng = np.random.default_rng(seed)
    query = vectors_like_photos(1, seed % 50)[0]
    some, others = (np.flatnonzero(rng.random(len(ROWS.flags)) < worded) for _ in range(2))
    ROWS.check_ranked(
        SCAN,
        query,
        k,
        ranking,
        bm25=(some, (20 * rng.random(len(some))).astype(np.float32)),
        text=(others, rng.integers(1, 4, len(others)).astype(np.float32) / np.float32(3)),
        keep=drawn(rng, share, in_one_piece=False),
        min_score=min_score,
        group_by=group_by,
    )


@pytest.mark.parametrize("size", [1, 3, 64, 200, 256, 1536])
def test_any_number_of_dimensions_is_searched(size: int) -> None:
    rows = Rows(2_500, size=size)
    for queries in (1, 5):
        rows.check_nearest(rows.scan(), rows.image[:queries], 10)


def test_more_queries_than_fit_a_pass_are_answered_one_by_one() -> None:
    ROWS.check_nearest(SCAN, vectors_like_photos(37, seed=9), 3, group_by="image")


def test_nearly_equal_rows_are_ranked_exactly() -> None:
    rows = Rows(3_000)
    noise = np.random.default_rng(5).standard_normal(rows.image.shape)
    rows.image = (rows.image[:1] + 1e-4 * noise).astype(np.float32)
    for group_by in GROUPS:
        rows.check_nearest(rows.scan(), rows.image[:2], 10, group_by=group_by)


def test_lengths_in_many_orders_of_magnitude_are_ranked_exactly() -> None:
    rows = Rows(3_000)
    rows.image *= (10.0 ** np.random.default_rng(3).uniform(-12, 0, (3_000, 1))).astype(np.float32)
    rows.check_nearest(rows.scan(), rows.image[:3] + rows.image[5:8], 10)


def test_equal_vectors_are_in_the_order_of_ids() -> None:
    rows = Rows(3_000)
    rows.image[:] = rows.image[0]
    scan = rows.scan()
    for group_by in GROUPS:
        for query in (rows.image[:1], np.zeros((1, SIZE), np.float32)):
            rows.check_nearest(scan, query, 7, group_by=group_by)


def test_few_rows_are_read() -> None:
    rows = Rows(10_000, size=256)
    rng = np.random.default_rng(6)
    rows.image = (rng.standard_normal((10_000, 256)) / 16).astype(np.float32)
    rows.check_nearest(rows.scan(), vectors_like_photos(10, seed=7, size=256), 10)
    assert rows.read < 10 * 40


def test_a_scan_without_rows_finds_nothing() -> None:
    empty = Scan([], SIZE)
    (answer,) = empty.nearest(ROWS.image[:1], SearchOptions(), ROWS)
    assert (len(empty), len(empty.flags), len(answer[0]), len(answer[1])) == (0, 0, 0, 0)


def test_blocks_without_records_are_skipped() -> None:
    blocks = [None, SCAN.blocks[1], None, *SCAN.blocks[3:], None]
    options = SearchOptions(limit=20_000, on="text")
    found = Scan(blocks, SIZE).nearest(ROWS.image[:1], options, ROWS)
    keep = np.isin(np.arange(len(ROWS.flags)) // BLOCK_ROWS, (1, 3))
    possible = ROWS.cosines(ROWS.image[0], "text").astype(np.float64)
    possible[(ROWS.flags & HAS_TEXT) == 0] = np.nan
    assert found[0][0].tolist() == ROWS.best(possible, 20_000, keep, "image")


def test_replaced_blocks_are_those_of_a_new_scan() -> None:
    rows, other = Rows(9_000, seed=10), Rows(14_000, seed=20)
    before = rows.scan()
    after = before.replaced({number: other.block(number) for number in (1, 2, 3)}, 4)
    for name in ("flags", "contents", "albums", "image", "text"):
        first = getattr(rows, name)[:BLOCK_ROWS]
        setattr(other, name, np.concatenate([first, getattr(other, name)[BLOCK_ROWS:]]))
    assert (len(before), len(after)) == (3 * BLOCK_ROWS, 4 * BLOCK_ROWS)
    assert after.contents[:14_000].tolist() == other.contents.tolist()
    for group_by in GROUPS:
        rows.check_nearest(before, rows.image[:1], 20, group_by=group_by)
        other.check_nearest(after, other.image[:2], 20, group_by=group_by)


@given(st.lists(st.integers(0, len(ROWS.flags) - 1), max_size=20), KEPT)
def test_copies_are_the_records_of_the_same_content(rows: list[int], share: float | None) -> None:
    keep = drawn(np.random.default_rng(len(rows)), share, in_one_piece=False)
    shown = (ROWS.flags & (EXISTS | HIDDEN)) == EXISTS
    if keep is not None:
        shown &= keep
    expected = [
        int(np.sum(shown & (ROWS.contents == ROWS.contents[row]))) if ROWS.contents[row] else 1
        for row in rows
    ]
    assert SCAN.copies(np.array(rows, np.int64), padded(SCAN, keep)).tolist() == expected


def test_rows_of_deleted_records_are_used_again(tmp_path: Path) -> None:
    vector = np.ones(1, np.float32)
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        collection = store.create("c", embed_dim=1, fingerprint="f")
        for ids in ("ab", "b", "ab", "a", "cab", "b"):
            collection.upsert(Record(id=id, path="", vector=vector) for id in ids)
            collection.delete(ids)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT rows FROM collections").fetchone() == (3,)
