"""Scores are cosines for every index type: compressed vectors only find candidates."""

from collections.abc import Callable

import numpy as np
import pytest

from coca.search.milvus.collection import Collection
from coca.search.milvus.lite import is_lite
from coca.search.milvus.vector_index import VectorIndex
from coca.search.query.collection_copy import CollectionCopy
from coca.search.records import Record, content_id

DIM = 16
ROWS = 1_200
"""A server indexes no segment below 1,024 rows."""


@pytest.fixture
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture
def compressed(
    make_index: Callable[..., Collection], fresh: str, vectors: np.ndarray, uri: str
) -> Collection:
    kind = ("HNSW_SQ", {}) if is_lite(uri) else ("IVF_PQ", {"nlist": 4, "m": 4})
    collection = make_index(collection=fresh)
    collection.upsert(
        Record(
            id=content_id(b"%d" % row),
            path=f"/{row}",
            album="even" if row % 2 == 0 else "odd",
            vector=vector,
            text_vector=-vector,
        )
        for row, vector in enumerate(vectors)
    )
    client = collection._connection.client
    for name in {collection._layout.name, collection._layout.texts}:
        client.flush(name, timeout=60)
    collection.change_index(VectorIndex(*kind))
    return collection


def test_scores_of_a_compressed_index_are_cosines_in_order(
    compressed: Collection, vectors: np.ndarray
) -> None:
    cosines = vectors[:20] @ vectors.T
    for on, sign in (("image", 1), ("text", -1)):
        queries = sign * vectors[:20]
        for filter in ("", 'album == "even"', 'path != "/1"'):
            answers = compressed.search(queries, 10, on=on, filter=filter, effort=4.0)
            for row, hits in enumerate(answers):
                by_hand = [float(cosines[row][int(hit.path[1:])]) for hit in hits]
                np.testing.assert_allclose([hit.score for hit in hits], by_hand, atol=1e-6)
                assert by_hand == sorted(by_hand, reverse=True)


def test_vectors_in_memory_come_in_the_order_of_their_ids(
    compressed: Collection, vectors: np.ndarray
) -> None:
    resident = CollectionCopy(compressed)
    ids, held = resident.vectors()
    assert ids == sorted(content_id(b"%d" % row) for row in range(ROWS))
    # Also after rows were rewritten, and so are last, or deleted.
    compressed.upsert([Record(id=ids[0], path="/again", vector=held[0])])
    compressed.delete([ids[1]])
    again, refreshed = resident.vectors()
    assert again == [ids[0], *ids[2:]]
    np.testing.assert_array_equal(refreshed, held[[0, *range(2, ROWS)]])
