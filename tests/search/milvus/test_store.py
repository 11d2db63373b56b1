"""What is of Milvus only: names by aliases, other clients, and collections of other programs."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus import schema
from coca.search.milvus.collection import MilvusCollection
from coca.search.milvus.connection import Capabilities, Connection
from coca.search.milvus.schema import CollectionSettings
from coca.search.milvus.store import MilvusStore
from coca.search.milvus.vector_index import VectorIndex
from coca.search.ranking import Spread, TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions

MakeRecord = Callable[..., Record]
DIM = 16
AXIS = np.eye(DIM, dtype=np.float32)


def create(store: MilvusStore, name: str, fingerprint: str = "model-one") -> MilvusCollection:
    return store.create(name, embed_dim=DIM, fingerprint=fingerprint)


@pytest.mark.slow
def test_searches_find_the_former_records_or_the_new_ones_while_a_name_changes_hands(
    store: MilvusStore, name: str, make_record: MakeRecord
) -> None:
    collection = create(store, name)
    collection.upsert(make_record(f"0-{n}") for n in range(5))
    answers: list[set[str]] = []
    ended = threading.Event()

    def search() -> None:
        while not ended.is_set():
            hits = collection.nearest(AXIS[:1], SearchOptions(limit=10))[0]
            answers.append({hit.id[0] for hit in hits})

    readers = [threading.Thread(target=search) for _ in range(2)]
    for reader in readers:
        reader.start()
    for round in range(1, 4):
        staged = create(store, f"{name}_staged")
        staged.upsert(make_record(f"{round}-{n}") for n in range(5))
        store.promote(f"{name}_staged", name)
        # What is written by a client that was open before is in the new collection.
        collection.upsert([make_record(f"{round}-more")])
        assert collection.count() == store.open(name).count() == 6
    ended.set()
    for reader in readers:
        reader.join()
    assert {frozenset(answer) for answer in answers} <= {frozenset(str(n)) for n in range(4)}
    assert [info.collection for info in store.list() if info.collection.startswith(name)] == [name]


def test_an_open_client_notices_that_a_collection_of_another_model_took_the_name(
    store: MilvusStore, name: str, make_record: MakeRecord
) -> None:
    collection = create(store, name)
    create(store, f"{name}_staged", "model-two")
    store.promote(f"{name}_staged", name)
    for ask in (
        lambda: collection.nearest(AXIS[:1], SearchOptions()),
        lambda: collection.upsert([make_record("cat")]),
        lambda: collection.ranked(TypedQuery(AXIS[0], "cat"), Ranking(), SearchOptions()),
        collection.changes,
    ):
        with pytest.raises(SearchError, match="filled by model model-two, and not by model-one"):
            ask()


def test_a_killed_process_leaves_collections_that_can_be_listed_and_dropped(
    store: MilvusStore, name: str, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(store, name).upsert([make_record("old")])
    call = Connection.call

    def killed_at(method: str) -> None:
        def die(self: Connection, called: str, *arguments: Any, **options: Any) -> Any:
            if called == method:
                raise KeyboardInterrupt
            return call(self, called, *arguments, **options)

        monkeypatch.setattr(Connection, "call", die)

    def listed() -> list[str]:
        return [info.collection for info in store.list() if info.collection.startswith(name)]

    killed_at("create_alias")
    with pytest.raises(KeyboardInterrupt):
        create(store, f"{name}_other")
    monkeypatch.undo()
    assert not store.has(f"{name}_other")
    for method, expected in (("alter_alias", "old"), ("drop_collection", "new")):
        staged = create(store, f"{name}_staged")
        staged.upsert([make_record("new")])
        killed_at(method)
        with pytest.raises(KeyboardInterrupt):
            store.promote(f"{name}_staged", name)
        monkeypatch.undo()
        assert store.open(name).ids() == [expected]
        assert not store.has(f"{name}_staged")
    # The others have no names but their own.
    assert len(listed()) == 4
    for orphan in set(listed()) - {name}:
        store.drop(orphan)
    store.promote(name, name)
    assert (listed(), store.open(name).ids()) == ([name], ["new"])


def test_writes_of_another_client_are_noticed_by_the_count(
    uri: str, store: MilvusStore, name: str, make_record: MakeRecord
) -> None:
    settings = CollectionSettings(consistency="Strong")
    collection = store.create(name, embed_dim=DIM, fingerprint="model-one", settings=settings)
    with MilvusStore(uri) as other:
        before = collection.changes().version
        other.open(name).upsert([make_record("cat")])
        changes = collection.changes(before)
        assert (changes.version > before, changes.ids) == (True, None)
        collection.upsert([make_record("dog")])
        assert collection.changes(changes.version).ids == ("dog",)
        assert collection.changes(before).ids is None


def test_ids_of_too_many_changes_are_unknown(
    store: MilvusStore, name: str, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coca.search.milvus.collection._KEPT_CHANGES", 4)
    collection = create(store, name)
    versions = [collection.changes().version]
    for ids in ("ab", "bc", "d"):
        collection.upsert(make_record(id) for id in ids)
        versions.append(collection.changes().version)
    known = [collection.changes(version).ids for version in versions]
    assert known == [None, ("b", "c", "d"), ("d",), ()]


def test_collections_of_other_programs_and_versions_are_not_touched(
    store: MilvusStore, name: str
) -> None:
    client = store._connection.client
    client.create_collection(name, dimension=4)
    assert name not in [info.collection for info in store.list()]
    for ask in (store.open, store.drop, lambda name: store.promote(name, "x")):
        with pytest.raises(SearchError, match="was not made by `coca index`: the model of its"):
            ask(name)
    with pytest.raises(SearchError, match=f"there is a collection '{name}'"):
        create(store, name)
    properties = {schema._FINGERPRINT: "model-one", schema._LAYOUT: "2"}
    client.alter_collection_properties(name, properties=properties)
    with pytest.raises(SearchError, match="made by another version of coca"):
        store.open(name)
    client.drop_collection(name)


def test_a_new_collection_is_kept_as_it_was_asked_for(store: MilvusStore, name: str) -> None:
    index = VectorIndex("IVF_FLAT", {"nlist": 16})
    settings = CollectionSettings(index=index, shards=2, consistency="Strong")
    store.create(name, embed_dim=DIM, fingerprint="model-one", settings=settings)
    opened = store.open(name)
    assert opened.index_type == index
    assert opened._rows.freshness == "Strong"
    described = store._connection.client.describe_collection(name)
    if not store.capabilities.lite:
        assert described["num_shards"] == 2


def test_a_milvus_without_bm25_is_reported_once(
    tmp_path: Path,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = Capabilities(product="Milvus 2.3.5", lite=True, several_vectors=False)
    monkeypatch.setattr("coca.search.milvus.connection.capabilities_of", lambda version, uri: old)
    with (
        caplog.at_level(logging.WARNING, "coca"),
        MilvusStore(f"milvus-lite:{tmp_path}/old.db") as store,
    ):
        for name in ("one", "two"):
            collection = create(store, name)
        collection.upsert(
            [
                make_record("cat", vector=AXIS[0], caption="a cat", text_vector=AXIS[1]),
                make_record("dog", vector=AXIS[1]),
            ]
        )
        assert len(caplog.messages) == 1
        assert "Milvus 2.3.5 at milvus-lite:" in caplog.text
        assert collection.words("cat", 5) == []
        # One column has both vectors.
        read = collection.get(["cat", "dog"])
        np.testing.assert_array_equal(read["cat"].text_vector, AXIS[1])
        np.testing.assert_array_equal(read["dog"].vector, AXIS[1])
        assert read["dog"].text_vector is None
        near = [
            [(hit.id, hit.score) for hit in collection.nearest(AXIS[1:2], SearchOptions(on=on))[0]]
            for on in ("image", "text")
        ]
        assert near == [[("dog", 1.0), ("cat", 0.0)], [("cat", 1.0)]]
        typed = TypedQuery(AXIS[1], "a cat", [Spread(0.2, 0.1)])
        best = collection.ranked(typed, Ranking(), SearchOptions())
        assert [(hit.id, hit.bm25, hit.caption_score) for hit in best] == [
            ("dog", None, None),
            ("cat", None, 1.0),
        ]


@pytest.mark.parametrize("method", ["query", "upsert"])
def test_an_edit_is_repeated_where_milvus_does_not_find_a_collection_once(
    store: MilvusStore,
    name: str,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    # Milvus 2.3 at times does not find a collection whose properties another client changes.
    collection = create(store, name)
    collection.upsert([make_record("one")])
    call, calls = Connection.call, 0

    def missing_once(self: Connection, called: str, own_name: str = "", **options: Any) -> Any:
        nonlocal calls
        calls += called == method
        is_missing = called == method and calls == 1
        return call(self, called, f"{own_name}_absent" if is_missing else own_name, **options)

    monkeypatch.setattr(Connection, "call", missing_once)
    collection.update(["one"], changed)
    assert calls > 1
    assert collection.get(["one"])["one"].tags == ("changed",)


def changed(records: Mapping[str, Record]) -> dict[str, Record]:
    return {id: replace(record, tags=("changed",)) for id, record in records.items()}
