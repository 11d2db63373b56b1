"""Searches while others write: what was acknowledged is there, and no answer is wrong."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from coca.search.milvus.collection import Collection
from coca.search.records import Record


def test_searches_and_writes_at_once_lose_nothing_and_never_answer_wrongly(
    make_index: Callable[..., Collection], fresh: str, make_record: Callable[..., Record]
) -> None:
    collection = make_index(collection=fresh)
    collection.upsert([make_record("stays")])
    queries = np.stack([make_record(name).vector for name in ("stays", "0-1-9", "other")])
    done = threading.Event()

    def write(writer: int) -> set[str]:
        kept: set[str] = set()
        for batch in range(8):
            ids = [f"{writer}-{batch}-{n}" for n in range(20)]
            collection.upsert(make_record(id) for id in ids)
            collection.upsert(make_record(id, caption="again") for id in ids[10:])
            collection.delete(ids[:5])
            kept.update(ids[5:])
        return kept

    def search() -> int:
        count = 0
        while not done.is_set():
            answers = collection.search(queries, 5)
            assert answers[0][0].id == "stays"
            for query, hits in zip(queries, answers, strict=True):
                scores = [float(query @ make_record(hit.id).vector) for hit in hits]
                np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)
                assert scores == sorted(scores, reverse=True)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        searchers = [pool.submit(search) for _ in range(2)]
        written = [pool.submit(write, writer) for writer in range(2)]
        try:
            kept = {"stays"}.union(*(writer.result() for writer in written))
        finally:
            done.set()
        assert all(searcher.result() for searcher in searchers)
    assert set(collection.ids()) == kept
    collection.close()
    assert set(make_index(collection=fresh).ids()) == kept
