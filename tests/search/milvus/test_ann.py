"""Pages are slices of one list: concatenated they equal one long search, each hit once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from coca.search.milvus.ann import depth_of, pages
from coca.search.milvus.collection import Collection
from coca.search.milvus.lite import is_lite
from coca.search.milvus.rows import Row
from coca.search.milvus.schema import CollectionSettings
from coca.search.milvus.vector_index import VectorIndex
from coca.search.query.collection_copy import CollectionCopy
from coca.search.records import Record

MakeRecord = Callable[..., Record]
CAPTIONS, ROWS = 20, 400


@pytest.fixture
def filled(collection: Collection, embedder: Any, make_record: MakeRecord) -> Collection:
    """Build records where each caption has 19 images, and one image in 20 has no caption."""
    captions = [f"image of {n % CAPTIONS}" if n % 19 else "" for n in range(ROWS)]
    collection.upsert(
        make_record(
            f"{n:03}",
            caption=caption,
            text_vector=embedder.direction(caption.encode()) if caption else None,
            album=f"album {n % 90}",
        )
        for n, caption in enumerate(captions)
    )
    collection.flush()
    return collection


@pytest.mark.parametrize(
    "asked",
    [
        {"on": "image"},
        {"on": "text"},
        {"on": "text", "filter": 'album != "album 3"'},
        {"on": "text", "group_by": "album"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "kind", [lambda collection: collection, CollectionCopy], ids=["index", "resident"]
)
def test_pages_join_to_one_long_search(
    filled: Collection, embedder: Any, asked: Any, kind: Callable[[Collection], Any]
) -> None:
    searched = kind(filled)
    for word in (b"picture of 7", b"x"):
        query = embedder.direction(word)[np.newaxis]

        def ids(k: int, offset: int, query: Any = query) -> list[str]:
            return [hit.id for hit in searched.search(query, k, offset=offset, **asked)[0]]

        whole = ids(ROWS, 0)
        assert len(whole) == len(set(whole)) >= 80
        assert [id for offset in range(0, 84, 12) for id in ids(12, offset)] == whole[:84]


def test_rows_of_one_score_are_ordered_by_id_for_any_k() -> None:
    scores = [0.9] + [0.5] * 50 + [0.1]

    def search(queries: Sequence[int], limit: int) -> list[list[Row]]:
        # The order of ties changes with the limit, as in Milvus.
        equal = [1 + (n + limit) % 50 for n in range(50)]
        order = [0, *equal, 51]
        return [[{"id": f"{n:02}", "distance": scores[n]} for n in order[:limit]] for _ in queries]

    found = [
        row["id"]
        for offset in range(0, 60, 7)
        for row in pages(search, [0], offset=offset, k=7, max_limit=100)[0]
    ]
    assert found == [f"{n:02}" for n in range(52)]


def test_pages_of_one_depth_are_looked_for_equally_widely() -> None:
    assert [depth_of(wanted) for wanted in (1, 32, 33, 128, 129)] == [32, 32, 128, 128, 512]


def test_pages_behind_a_filter_join_where_the_index_rounds(
    make_index: Callable[..., Collection], fresh: str, uri: str
) -> None:
    """A compressed graph has other scores than brute force over the filtered rows."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((700, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = VectorIndex("HNSW_SQ") if is_lite(uri) else VectorIndex("IVF_SQ8", {"nlist": 16})
    settings = CollectionSettings(index=index)
    collection = make_index(collection=fresh, settings=settings)
    collection.upsert(
        Record(id=f"{n:03}", path="x", width=n % 7, vector=vector)
        for n, vector in enumerate(vectors)
    )
    collection.flush()
    for query in vectors[:3]:
        whole = collection.search(query[np.newaxis], 31, filter="width == 3")[0]
        for k in range(1, 31, 3):
            assert collection.search(query[np.newaxis], k, filter="width == 3")[0] == whole[:k]
