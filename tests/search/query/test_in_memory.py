import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.query.engine import SearchEngine
from coca.search.query.fusion import Captions
from coca.search.query.in_memory import InMemoryIndex
from coca.search.records import Record
from coca.search.search_options import Fusion


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
        InMemoryIndex(filled).search(queries, **asked), filled.search(queries, **asked), strict=True
    ):
        assert [hit.id for hit in here] == [hit.id for hit in there]
        scores = [hit.score for hit in there]
        assert [hit.score for hit in here] == pytest.approx(scores, abs=1e-6)
        assert [hit.metadata for hit in here] == [hit.metadata for hit in there]


def test_an_engine_searches_it_like_an_index(filled: Collection, embedder: Any) -> None:
    resident = SearchEngine(embedder, InMemoryIndex(filled))
    plain = SearchEngine(embedder, filled)
    assert [hit.id for hit in resident.similar("08")] == [hit.id for hit in plain.similar("08")]
    hybrid = [one.search("c7", fusion=Fusion(), k=5) for one in (resident, plain)]
    assert [hit.id for hit in hybrid[0]] == [hit.id for hit in hybrid[1]]


def test_leaving_its_block_closes_the_collection(filled: Collection, embedder: Any) -> None:
    with InMemoryIndex(filled) as resident:
        assert len(resident) == 40
    with pytest.raises(SearchError, match="closed"):
        resident.search(embedder.direction(b"05")[np.newaxis], 1)
    resident.close()


def test_own_writes_are_seen_by_the_next_search(
    filled: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    resident = InMemoryIndex(filled)

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
    patient, eager = InMemoryIndex(filled, check_s=1e9), InMemoryIndex(filled, check_s=0.0)
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
    resident = InMemoryIndex(filled, check_s=0.0)
    captions = Captions(filled)
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
    eventually(lambda: [hit.id for hit in captions.full_text_search("zebra")] == ["07"])


def test_threads_never_see_a_copy_that_is_half_replaced(
    filled: Collection, embedder: Any, make_record: Callable[..., Record]
) -> None:
    """Rows move when earlier rows are deleted; with the previous ids, hits would be wrong."""
    resident = InMemoryIndex(filled)
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


def test_only_the_last_filters_are_remembered(
    filled: Collection, embedder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coca.search.query.in_memory._FILTERS", 3)
    # A slow server would get the copy read again meanwhile, and a new copy remembers no filter.
    resident, query = InMemoryIndex(filled, check_s=600.0), embedder.direction(b"x")[np.newaxis]
    for _ in range(2):
        for n in range(1, 8):
            hits = resident.search(query, 40, filter=f'metadata["n"] < {n}')[0]
            assert {hit.metadata["n"] for hit in hits} == set(range(n))
    assert len(resident._copy.kept) == 3


def test_an_empty_collection_has_no_answers(collection: Collection, embedder: Any) -> None:
    resident = InMemoryIndex(collection)
    assert resident.search(embedder.direction(b"x")[np.newaxis]) == [[]]
    ids, vectors = resident.vectors()
    assert (ids, vectors.shape) == ([], (0, 16))


def test_limits_are_those_of_an_index(filled: Collection, embedder: Any) -> None:
    resident = InMemoryIndex(filled)
    query = embedder.direction(b"x")[np.newaxis]
    for k, offset in ((0, 0), (1, -1), (16_385, 0)):
        with pytest.raises(SearchError, match=r"at least|at most"):
            resident.search(query, k, offset=offset)
    with pytest.raises(SearchError, match="length must be 1"):
        resident.search(2 * query)
