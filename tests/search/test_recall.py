"""A filter must not cost results, however little it leaves."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float32

from coca.search import nearest_rows
from coca.search.lite import is_lite
from coca.search.milvus import Index
from coca.search.records import Record

ROWS, DIM, QUERIES, K = 6_000, 48, 30, 10
SHARES = (1.0, 0.1, 0.01, 0.001)


def cloud(rows: int, seed: int) -> Float32[np.ndarray, "N E"]:
    """Clusters on a surface of few dimensions, as a model's vectors lie."""
    shape, rng = np.random.default_rng(0), np.random.default_rng(seed)
    surface, centers = shape.standard_normal((16, DIM)), shape.standard_normal((200, 16))
    low = centers[rng.integers(200, size=rows)] + 0.6 * rng.standard_normal((rows, 16))
    vectors = low @ surface + 0.8 * rng.standard_normal((rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
def test_recall_at_10_holds_behind_every_filter(
    make_index: Callable[..., Index], fresh: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if is_lite(place):
        # The graph alone, also where few rows are left. That of Milvus 2.3 would give 0.92 at 10 %.
        monkeypatch.setattr(nearest_rows, "_FEW_ROWS", 0)
    vectors, queries = cloud(ROWS, 1), cloud(QUERIES, 2)
    ranks = np.random.default_rng(3).permutation(ROWS)
    index = make_index(collection=fresh, embed_dim=DIM)
    index.upsert(
        Record(id=f"{row}", path=f"{row}.jpg", width=int(ranks[row]), vector=vector)
        for row, vector in enumerate(vectors)
    )
    index.flush()
    assert index.count() == ROWS
    check_recall(index, vectors, queries, ranks)
    if not is_lite(place):
        # The index is finished, and for some 20 s nobody looks at it yet.
        while index.index_states()["image"].indexed_rows < ROWS:
            time.sleep(0.1)
        check_recall(index, vectors, queries, ranks)


def check_recall(index: Index, vectors: np.ndarray, queries: np.ndarray, ranks: np.ndarray) -> None:
    for share in SHARES:
        kept = np.flatnonzero(ranks < share * ROWS)
        filter = "" if share == 1 else f"width < {share * ROWS:.0f}"
        exact = [
            {f"{kept[row]}" for row in order[:K]}
            for order in np.argsort(-(queries @ vectors[kept].T), axis=1)
        ]
        found = [{hit.id for hit in hits} for hits in index.search(queries, K, filter=filter)]
        right = sum(len(one & other) for one, other in zip(found, exact, strict=True))
        assert right / sum(map(len, exact)) >= 0.95, f"{100 * share} % are kept"
