"""Index builds, searches, rebuilds and failures on a real Milvus."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus import schema
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.milvus.schema import CollectionSettings
from coca.search.milvus.vector_index import DEFAULT_INDEX, VectorIndex
from coca.search.records import Record

MakeIndex = Callable[..., Collection]
ROWS, DIM = 3_000, 32


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, DIM))
    rows = centres[rng.integers(100, size=ROWS)] + 0.7 * rng.standard_normal((ROWS, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def filled(make_index: MakeIndex, fresh: str, vectors: np.ndarray) -> Collection:
    collection = make_index(collection=fresh, embed_dim=DIM)
    collection.upsert(
        Record(id=str(row), path=f"/{row}", vector=vector, text_vector=-vector)
        for row, vector in enumerate(vectors)
    )
    # A server indexes flushed rows only.
    collection._connection.client.flush(collection._layout.name, timeout=60)
    collection._connection.client.flush(collection._layout.texts, timeout=60)
    return collection


def recall(collection: Collection, vectors: np.ndarray, effort: float = 1.0) -> float:
    """Compute recall@10 of images and of captions."""
    queries = vectors[:50]
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = 0
    images = collection.search(queries, 10, effort=effort)
    captions = collection.search(-queries, 10, on="text", effort=effort)
    for answers in (images, captions):
        found += sum(
            len({int(hit.id) for hit in hits} & set(row.tolist()))
            for hits, row in zip(answers, best, strict=True)
        )
    return found / (2 * best.size)


def test_an_index_is_exchanged_and_stays_for_the_next_who_opens(
    make_index: MakeIndex,
    fresh: str,
    filled: Collection,
    vectors: np.ndarray,
) -> None:
    assert filled.index_type == DEFAULT_INDEX
    assert recall(filled, vectors) > 0.95
    lite = filled.capabilities.lite
    wanted = VectorIndex(
        "IVF_SQ8" if lite else "IVF_PQ", {"nlist": 64} | ({} if lite else {"m": 16})
    )
    filled.change_index(wanted)
    assert filled.index_type == wanted
    assert {state.index for state in filled.index_states().values()} == {wanted}
    # A server may merge segments behind it, and then builds the index of these.
    deadline = time.monotonic() + 240
    while any(state.state != "Finished" for state in filled.index_states().values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert filled.count() == ROWS
    little, usual, much = (recall(filled, vectors, effort=effort) for effort in (0.1, 1.0, 8.0))
    assert little < usual <= much
    assert much > (0.95 if lite else 0.6)
    narrow = filled.search(vectors[:50], 10, params={"nprobe": 1})
    assert narrow == filled.search(vectors[:50], 10, effort=0.1)
    again = make_index(collection=fresh, embed_dim=None, fingerprint=None, create=False)
    assert again.index_type == wanted


def test_a_build_without_progress_is_given_up_and_the_old_index_restored(
    filled: Collection, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_of = schema.index_state

    def stuck(connection: Connection, collection: str, column: str) -> schema.IndexState | None:
        state = state_of(connection, collection, column)
        if state is None or state.index.type != "IVF_FLAT":
            return state
        return replace(state, state="InProgress", indexed_rows=0)

    # A server without a GPU does so when it builds an index of a GPU; one with local storage also
    # deletes the vectors then, so that this failure cannot be had from a real server.
    monkeypatch.setattr(schema, "index_state", stuck)
    with pytest.raises(SearchError, match="could not build IVF_FLAT: it is InProgress at 0 of"):
        filled.change_index(VectorIndex("IVF_FLAT", {"nlist": 16}), patience_s=0.2)
    assert filled.index_type == DEFAULT_INDEX
    assert recall(filled, vectors) > 0.95


def test_a_width_set_by_hand_may_be_as_small_as_the_page(
    filled: Collection, vectors: np.ndarray
) -> None:
    kinds = [(DEFAULT_INDEX, {"ef": 10})]
    if not filled.capabilities.lite:
        scann = VectorIndex("SCANN", {"nlist": 16})
        kinds.append((scann, {"nprobe": 16, "reorder_k": 10}))
    for index, params in kinds:
        if filled.index_type != index:
            filled.change_index(index)
        answers = filled.search(vectors[:20], 10, params=params)
        assert [answer[0].id for answer in answers] == [str(row) for row in range(20)]
        assert {len(answer) for answer in answers} == {10}


def test_a_new_collection_is_kept_as_it_was_asked_for(make_index: MakeIndex, fresh: str) -> None:
    settings = CollectionSettings(
        index=VectorIndex("IVF_FLAT", {"nlist": 16}), shards=2, consistency="Strong"
    )
    collection = make_index(collection=fresh, settings=settings)
    assert collection.index_type == settings.index
    described = collection._connection.client.describe_collection(fresh, timeout=10)
    if not collection.capabilities.lite:
        assert described["num_shards"] == 2
    collection.upsert(
        Record(id=str(n), path="x", album=f"a{n % 3}", vector=np.eye(16, dtype=np.float32)[n])
        for n in range(9)
    )
    hits = collection.search(np.eye(1, 16, dtype=np.float32), 9, filter='album == "a1"')[0]
    assert {hit.id for hit in hits} == {"1", "4", "7"}
    assert collection._images.freshness == "Strong"


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"shards": 0}, r"shards must be a whole number in \[1, 16\], got 0"),
        ({"shards": 17}, "shards must be .* got 17"),
        ({"replicas": 0}, "replicas must be a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_refused(wrong: dict[str, Any], fault: str) -> None:
    with pytest.raises(SearchError, match=fault):
        CollectionSettings(**wrong)


WRONG_INDEXES = [VectorIndex("HNWS"), VectorIndex("HNSW", {"M": "many"})]


@pytest.mark.parametrize("wrong", WRONG_INDEXES, ids=str)
def test_what_milvus_refuses_is_its_own_message_with_a_hint(
    filled: Collection, vectors: np.ndarray, wrong: VectorIndex
) -> None:
    with pytest.raises(SearchError, match=r"Milvus at .*; docs/milvus\.md lists index types"):
        filled.change_index(wrong)
    assert filled.index_type == DEFAULT_INDEX
    assert recall(filled, vectors) > 0.95


def test_a_server_that_refuses_an_index_keeps_no_collection(
    make_index: MakeIndex, fresh: str
) -> None:
    if make_index().capabilities.lite:
        pytest.skip("Milvus Lite checks an index when it builds it")
    settings = CollectionSettings(index=VectorIndex("IVF_PQ", {"nlist": 16, "m": 7}))
    with pytest.raises(SearchError, match=r"docs/milvus\.md lists index types"):
        make_index(collection=fresh, settings=settings)
    with pytest.raises(SearchError, match="no collection"):
        make_index(collection=fresh, create=False)
