import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.query.collection_copy import CollectionCopy
from coca.search.query.engine import SearchEngine
from coca.search.query.milvus_search import MilvusSearch
from coca.search.records import Origin, Record
from coca.search.search_options import Ranking, SearchOptions


@pytest.fixture
def filled(embedder: Any, collection: Collection, make_record: Callable[..., Record]) -> Collection:
    collection.upsert(
        make_record(
            f"{n:02}",
            caption=f"c{n}" if n % 3 else "",
            text_vector=embedder.direction(f"c{n}".encode()) if n % 3 else None,
            album=f"album {n % 4}" if n < 20 else "",
            metadata={"n": n},
        )
        for n in range(40)
    )
    return collection


@pytest.mark.parametrize(
    "asked",
    [
        {"k": 5},
        {"k": 5, "offset": 7},
        {"k": 40, "filter": 'metadata["n"] < 9'},
        {"k": 40, "on": "text"},
        {"k": 6, "group_by": "album"},
        {"k": 6, "group_by": "album", "offset": 3, "filter": "album != 'album 1'"},
        {"k": 3, "filter": 'id == ""'},
    ],
)
def test_memory_answers_as_milvus_does(filled: Collection, embedder: Any, asked: Any) -> None:
    queries = np.stack([embedder.direction(name) for name in (b"05", b"c7", b"x")])
    for here, there in zip(
        CollectionCopy(filled).search(queries, **asked),
        filled.search(queries, **asked),
        strict=True,
    ):
        assert [hit.id for hit in here] == [hit.id for hit in there]
        scores = [hit.score for hit in there]
        assert [hit.score for hit in here] == pytest.approx(scores, abs=1e-6)
        assert [hit.metadata for hit in here] == [hit.metadata for hit in there]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"on": "text"},
        {"filter": 'metadata["n"] < 30'},
        {"group_by": "album"},
        {"on": "text", "filter": 'metadata["n"] < 30'},
    ],
)
def test_hidden_records_are_not_found(
    filled: Collection, embedder: Any, make_record: Callable[..., Record], asked: Any
) -> None:
    copy = CollectionCopy(filled)
    query, most = embedder.direction(b"05")[np.newaxis], SearchOptions(k=40, **asked)

    def ids() -> list[str]:
        there, here = (
            [hit.id for hit in one.search(query, 40, **asked)[0]] for one in (filled, copy)
        )
        assert here == there
        for searched in (copy, MilvusSearch(filled)):
            ranked = searched.search_ranked(query, "c5 c7 c20", Ranking(), most)
            if most.group_by is None and most.on == "image":
                assert {hit.id for hit in ranked} == set(there)
        return here

    everything = ids()
    records = filled.get(["05", "06", "20"])
    hidden = [replace(one, metadata={**one.metadata, "hidden": True}) for one in records.values()]
    filled.upsert(hidden)
    found = ids()
    assert not {"05", "06", "20"} & set(found)
    if "group_by" not in asked:
        assert found == [id for id in everything if id not in records]
    assert records.keys().isdisjoint(copy.vectors()[0])
    assert len(copy.vectors()[0]) == len(copy.vectors()[1]) == 37
    assert [hit.id for hit in SearchEngine(embedder, copy).similar("05", k=40)] == [
        hit.id for hit in SearchEngine(embedder, filled).similar("05", k=40)
    ]
    # A copy that is opened again knows them, and a record that is shown again is found again.
    copy.save()
    copy = CollectionCopy(filled)
    assert ids() == found
    filled.upsert(records.values())
    assert ids() == everything


def test_leaving_its_block_closes_the_collection(filled: Collection) -> None:
    with CollectionCopy(filled) as resident:
        assert len(resident) == 40
    with pytest.raises(SearchError, match="closed"):
        resident.get(["05"])
    resident.close()


def test_own_writes_are_seen_by_the_next_search(
    filled: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    resident = CollectionCopy(filled)

    def nearest(name: str, **asked: Any) -> str:
        return resident.search(embedder.direction(name.encode())[np.newaxis], 1, **asked)[0][0].id

    assert nearest("new") != "new"
    filled.upsert([make_record("new", metadata={"n": 99})])
    assert nearest("new", filter='metadata["n"] == 99') == "new"
    # Another vector and caption for an existing id.
    filled.upsert([make_record("new", vector=embedder.direction(b"other"), metadata={"n": 1})])
    assert nearest("other") == "new"
    assert resident.search(embedder.direction(b"x")[np.newaxis], filter='metadata["n"] == 99') == [
        []
    ]
    filled.delete(["new"])
    assert nearest("other") != "new"
    assert len(resident) == 40


def eventually(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_number_that_others_changed_is_seen_after_a_look(
    filled: Collection, make_index: Callable[..., Collection], make_record: Callable[..., Record]
) -> None:
    patient, eager = CollectionCopy(filled, check_s=1e9), CollectionCopy(filled, check_s=0.0)
    other = make_index()
    other.upsert([make_record("new")])
    query = make_record("new").vector[np.newaxis]
    assert eager.search(query, 1)[0][0].id == "new"
    # On Lite, all writers are in this process.
    assert (patient.search(query, 1)[0][0].id == "new") == filled.capabilities.lite
    patient.refresh()
    assert patient.search(query, 1)[0][0].id == "new"
    other.delete(["new"])
    # The deletion is not known yet, but the response of Milvus, up to 5 s stale, takes precedence.
    eventually(lambda: patient.search(query, 1)[0][0].id != "new")


def test_what_others_replaced_is_seen_though_the_number_stays(
    filled: Collection,
    embedder: Any,
    make_index: Callable[..., Collection],
    make_record: Callable[..., Record],
) -> None:
    resident = CollectionCopy(filled, check_s=0.0)
    captions = CollectionCopy(filled, vectors=False, check_s=0.0)
    other = make_index()
    other.delete(["00"])
    other.upsert([make_record("new")])
    moved, zebra = embedder.direction(b"moved"), embedder.direction(b"a zebra")
    other.upsert([make_record("07", vector=moved, caption="a zebra", text_vector=zebra)])
    assert filled.count() == 40

    def best(vector: np.ndarray, **asked: Any) -> str:
        return resident.search(vector[np.newaxis], 1, **asked)[0][0].id

    eventually(lambda: best(embedder.direction(b"new")) == "new")
    eventually(lambda: best(moved) == "07" and best(zebra, on="text") == "07")
    eventually(lambda: list(captions.words("zebra").best(9)) == ["07"])


def test_threads_never_see_a_copy_that_is_half_replaced(
    filled: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    """Rows move when earlier rows are deleted; with the previous ids, hits would be wrong."""
    resident = CollectionCopy(filled)
    stays = [f"{n:02}" for n in range(30, 40)]
    queries = np.stack([embedder.direction(name.encode()) for name in stays])
    wrong: list[Any] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                found = [hits[0] for hits in resident.search(queries, 1)]
                if [hit.id for hit in found] != stays or min(hit.score for hit in found) < 0.999:
                    wrong.append(found)
                ids, vectors = resident.vectors()
                if len(ids) != len(vectors):
                    wrong.append((len(ids), len(vectors)))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for round in range(8):
        filled.delete([f"{n:02}" for n in range(round, round + 3)])
        filled.upsert(make_record(f"more {round} {n}") for n in range(5))
        resident.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_filter_holds_though_all_rows_are_read_again_meanwhile(
    filled: Collection,
    embedder: Any,
    make_record: Callable[..., Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy, query = CollectionCopy(filled, check_s=600.0), embedder.direction(b"x")[np.newaxis]
    filter = 'metadata["n"] < 9'

    def kept() -> set[int]:
        return {hit.metadata["n"] for hit in copy.search(query, 60, filter=filter)[0]}

    assert kept() == set(range(9))
    filled.upsert([make_record("new", metadata={"n": 50})])
    ids, rounds = filled.ids, [1]

    def read_again(argument: str = "") -> list[str]:
        found = ids(argument)
        if argument and rounds:
            rounds.clear()
            # Rows have other numbers without the first records.
            filled.delete(["00", "01", "02"])
            copy.refresh()
        return found

    monkeypatch.setattr(filled, "ids", read_again)
    assert kept() == set(range(3, 9))


def test_an_empty_collection_has_no_answers(collection: Collection, embedder: Any) -> None:
    resident = CollectionCopy(collection)
    assert resident.search(embedder.direction(b"x")[np.newaxis]) == [[]]
    ids, vectors = resident.vectors()
    assert (ids, vectors.shape) == ([], (0, 16))


def test_words_are_those_of_the_captions_that_count(
    collection: Collection, make_record: Callable[..., Record]
) -> None:
    collection.upsert(
        make_record(f"{n}", caption=f"image {n}", origin=Origin(captioned=n % 2 == 1))
        for n in range(6)
    )
    for vectors in (True, False):
        copy = CollectionCopy(collection, vectors=vectors)
        assert copy.words("images").best(9).keys() == {"0", "2", "4"}
        assert copy.words("images", "all").best(9).keys() == {f"{n}" for n in range(6)}
        assert list(copy.words("3", "all").best(9)) == ["3"]
        assert copy.words("zebra").best(9) == {}
