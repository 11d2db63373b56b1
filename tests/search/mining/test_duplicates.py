import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import SearchError
from coca.search.mining.duplicates import near_duplicates
from coca.search.mining.images import read_images
from coca.search.records import Record
from coca.search.store import Collection


def cloud(seed: int, rows: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [4, 2_048])
@given(seed=st.integers(0, 50), min_similarity=st.floats(0.3, 1))
def test_pairs_are_those_of_a_double_loop(block: int, seed: int, min_similarity: float) -> None:
    vectors, others = cloud(seed, 13), cloud(seed + 1, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coca.search.mining.duplicates._BLOCK", block)
        within = near_duplicates(vectors, min_similarity=min_similarity).pairs
        across = near_duplicates(vectors, others, min_similarity=min_similarity).pairs
    bound = min(min_similarity, 1 - 1e-6)
    assert {(p.first, p.second) for p in within} == {
        (a, b) for b in range(13) for a in range(b) if vectors[a] @ vectors[b] >= bound
    }
    assert {(p.first, p.second) for p in across} == {
        (a, b) for a in range(13) for b in range(7) if vectors[a] @ others[b] >= bound
    }
    assert [p.score for p in across] == sorted((p.score for p in across), reverse=True)


def test_equal_images_are_found_at_a_cosine_of_1() -> None:
    vectors = cloud(0, 5)[[0, 1, 1, 2, 0]]
    assert [
        (pair.first, pair.second) for pair in near_duplicates(vectors, min_similarity=1.0).pairs
    ] == [(0, 4), (1, 2)]


@pytest.mark.parametrize("block", [4, 2_048])
@given(seed=st.integers(0, 50), min_similarity=st.floats(0.8, 1))
def test_groups_are_what_pairs_connect(block: int, seed: int, min_similarity: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coca.search.mining.duplicates._BLOCK", block)
        found = near_duplicates(cloud(seed, 25), min_similarity=min_similarity)
    edges = {(pair.first, pair.second) for pair in found.pairs}
    # Reference: propagate the smallest label until nothing changes.
    name = {row: row for edge in edges for row in edge}
    for _ in range(25):
        for a, b in edges:
            name[a] = name[b] = min(name[a], name[b])
    by_hand: dict[int, set[int]] = {}
    for row, first in name.items():
        by_hand.setdefault(first, set()).add(row)
    assert sorted(found.groups) == sorted(map(sorted, by_hand.values()))
    assert [len(group) for group in found.groups] == sorted(map(len, found.groups), reverse=True)
    assert set(found.drop) == set(name) - set(by_hand)
    assert found.drop == sorted(found.drop)


def test_of_another_set_only_ones_own_rows_are_dropped() -> None:
    vectors = cloud(0, 6)
    found = near_duplicates(vectors[:5], vectors[[3, 3, 1, 5]], min_similarity=1.0)
    assert (found.count, found.drop, found.groups) == (3, [1, 3], [])


@given(st.integers(0, 50), st.integers(0, 30))
def test_the_most_alike_pairs_are_kept_and_all_are_counted(seed: int, keep: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coca.search.mining.duplicates._BLOCK", 4)
        few = near_duplicates(cloud(seed, 20), min_similarity=0.3, keep=keep)
    whole = near_duplicates(cloud(seed, 20), min_similarity=0.3)
    assert whole.count == len(whole.pairs) == few.count
    assert few.groups == whole.groups
    scores = [pair.score for pair in whole.pairs]
    assert [pair.score for pair in few.pairs] == pytest.approx(scores[:keep], abs=1e-6)


def test_many_equal_images_take_memory_for_images_and_not_for_pairs() -> None:
    vectors = np.tile(cloud(0, 1), (6_000, 1))
    tracemalloc.start()
    found = near_duplicates(vectors, min_similarity=1.0, keep=100)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.count == 6_000 * 5_999 // 2
    assert len(found.pairs) == 100
    assert found.groups == [list(range(6_000))]
    assert found.drop == list(range(1, 6_000))
    # 18 million pairs; the limit is the memory of a block of 2,048 by 2,048.
    assert most_bytes < 400e6


def test_a_bound_that_makes_no_sense_is_refused() -> None:
    for wrong in (0.0, 1.1):
        with pytest.raises(SearchError, match=r"must be in \(0, 1\]"):
            near_duplicates(cloud(0, 2), min_similarity=wrong)


def test_records_of_the_same_content_are_one_image(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    vector = make_record("a").vector
    names = {"c": "one", "a": "one", "b": "one", "d": "two", "e": "", "f": ""}
    collection.upsert(
        make_record(name, content=content, vector=vector, hidden=name == "b", tags=(content,))
        for name, content in names.items()
    )
    # A table lists a file of the folder.
    collection.upsert([make_record("table", path="/pictures/d.jpg", content="two", vector=vector)])
    images = read_images(collection)
    assert images.ids == ["a", "d", "e", "f"]
    assert images.paths == [f"/pictures/{name}.jpg" for name in images.ids]
    assert images.vectors.shape == (4, len(vector))
    assert images.copies == {"/pictures/a.jpg": ["/pictures/c.jpg"]}
    assert read_images(collection, 'array_contains(tags, "two")').ids == ["d"]
    assert read_images(collection, 'album == "none"').ids == []
