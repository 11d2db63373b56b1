"""Index builds, searches and failures on a real Milvus."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus import index_builds
from coca.search.milvus.collection import MilvusCollection
from coca.search.milvus.connection import Connection
from coca.search.milvus.schema import CollectionSettings
from coca.search.milvus.store import MilvusStore
from coca.search.milvus.vector_index import DEFAULT_INDEX, VectorIndex
from coca.search.records import Record
from coca.search.search_options import SearchOptions

ROWS, DIM = 3_000, 32


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, DIM))
    rows = centres[rng.integers(100, size=ROWS)] + 0.7 * rng.standard_normal((ROWS, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def filled(store: MilvusStore, name: str, vectors: np.ndarray) -> MilvusCollection:
    settings = CollectionSettings(index=DEFAULT_INDEX)
    collection = store.create(name, embed_dim=DIM, fingerprint="one", settings=settings)
    collection.upsert(
        Record(id=str(row), path=f"/{row}", vector=vector, text_vector=-vector)
        for row, vector in enumerate(vectors)
    )
    # A server indexes flushed rows only.
    collection._flush()
    return collection


def recall(collection: MilvusCollection, vectors: np.ndarray, effort: float = 1.0) -> float:
    """Compute recall@10 of images and of captions."""
    queries, options = vectors[:50], SearchOptions(limit=10, effort=effort)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = 0
    images = collection.nearest(queries, options)
    captions = collection.nearest(-queries, options.replace(on="text"))
    for answers in (images, captions):
        found += sum(
            len({int(hit.id) for hit in hits} & set(row.tolist()))
            for hits, row in zip(answers, best, strict=True)
        )
    return found / (2 * best.size)


def change_by_milvus(collection: MilvusCollection, index: VectorIndex) -> None:
    """Change the index as docs/milvus.md says, by Milvus' own client."""
    client, layout = collection._connection.client, collection._rows.layout
    client.release_collection(layout.own_name)
    for column in layout.columns:
        if column in client.list_indexes(layout.own_name, field_name=column):
            client.drop_index(layout.own_name, column)
    for column in layout.columns:
        params = client.prepare_index_params()
        settings = {"params": dict(index.params)}
        params.add_index(column, index_type=index.type, metric_type="IP", params=settings)
        client.create_index(layout.own_name, params)
    client.load_collection(layout.own_name)


@pytest.mark.slow
def test_an_index_changed_by_milvus_is_that_of_the_next_who_opens(
    store: MilvusStore, filled: MilvusCollection, vectors: np.ndarray
) -> None:
    assert filled.index_type == DEFAULT_INDEX
    # Before Milvus 2.4 one graph has the vectors of both sides, and neighbours of either.
    assert recall(filled, vectors) > (0.95 if store.capabilities.several_vectors else 0.8)
    lite = store.capabilities.lite
    wanted = VectorIndex(
        "IVF_SQ8" if lite else "IVF_PQ", {"nlist": 64} | ({} if lite else {"m": 16})
    )
    change_by_milvus(filled, wanted)
    changed = store.open(filled.info.collection)
    assert changed.index_type == wanted
    assert [state.index for state in changed.index_states().values()] == [wanted] * 2
    # A server may merge segments behind it, and then builds the index of these.
    deadline = time.monotonic() + 240
    while any(state.state != "Finished" for state in changed.index_states().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert changed.count() == ROWS
    little, usual, much = (recall(changed, vectors, effort=effort) for effort in (0.1, 1.0, 8.0))
    assert little < usual <= much
    assert much > (0.95 if lite else 0.5)
    narrow = changed.nearest(vectors[:50], SearchOptions(params={"nprobe": 1}))
    assert narrow == changed.nearest(vectors[:50], SearchOptions(effort=0.1))


def test_a_build_without_progress_is_given_up(
    store: MilvusStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_of = index_builds.index_state

    def stuck(
        connection: Connection, collection: str, column: str
    ) -> index_builds.IndexState | None:
        state = state_of(connection, collection, column)
        return state and replace(state, state="InProgress", indexed_rows=0)

    # A server without a GPU does so when it builds an index of a GPU; one with local storage also
    # deletes the vectors then, so that this failure cannot be had from a real server.
    monkeypatch.setattr(index_builds, "index_state", stuck)
    monkeypatch.setattr(index_builds, "PATIENCE_S", 0.2)
    settings = CollectionSettings(index=VectorIndex("IVF_FLAT", {"nlist": 16}))
    with pytest.raises(SearchError, match="could not build IVF_FLAT: it is InProgress at 0 of"):
        store.create(name, embed_dim=DIM, fingerprint="one", settings=settings)
    assert not store.has(name)


def test_a_width_set_by_hand_may_be_as_small_as_the_page(
    filled: MilvusCollection, vectors: np.ndarray
) -> None:
    answers = filled.nearest(vectors[:20], SearchOptions(limit=10, params={"ef": 10}))
    assert {len(answer) for answer in answers} == {10}


@pytest.mark.parametrize(
    "wrong",
    [{"shards": 0}, {"shards": 17}, {"replicas": 0}],
    ids=str,
)
def test_a_wrong_setting_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SearchError, match=f"{next(iter(wrong))} must be"):
        CollectionSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [VectorIndex("HNWS"), VectorIndex("IVF_PQ", {"nlist": 16, "m": 7})], ids=str
)
def test_a_refused_index_leaves_no_collection(
    store: MilvusStore, name: str, wrong: VectorIndex
) -> None:
    if store.capabilities.lite:
        pytest.skip("Milvus Lite checks an index when it builds it")
    settings = CollectionSettings(index=wrong)
    before = store._connection.client.list_collections()
    with pytest.raises(SearchError, match=r"docs/milvus\.md lists index types"):
        store.create(name, embed_dim=16, fingerprint="one", settings=settings)
    assert not store.has(name)
    assert store._connection.client.list_collections() == before
