import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.engine import SearchEngine
from coca.search.hybrid import search_hybrid, word_search
from coca.search.milvus import Index
from coca.search.records import Record
from coca.search.resident import Resident, advice_on_size


@pytest.fixture
def filled(embedder: Any, index: Index, make_record: Callable[..., Record]) -> Index:
    index.upsert(
        make_record(
            f"{n:02}",
            caption=f"c{n}" if n % 3 else "",
            text_vector=embedder.direction(f"c{n}".encode()) if n % 3 else None,
            album=f"album {n % 4}" if n < 20 else "",
            metadata={"n": n},
        )
        for n in range(40)
    )
    return index


@pytest.mark.parametrize(
    "asked",
    [
        {"k": 5},
        {"k": 5, "offset": 7},
        {"k": 40, "filter": 'metadata["n"] < 9'},
        {"k": 40, "on": "text"},
        {"k": 6, "one_each_album": True},
        {"k": 6, "one_each_album": True, "offset": 3, "filter": "album != 'album 1'"},
        {"k": 3, "filter": 'id == ""'},
    ],
)
def test_memory_answers_as_milvus_does(filled: Index, embedder: Any, asked: Any) -> None:
    queries = np.stack([embedder.direction(name) for name in (b"05", b"c7", b"x")])
    for here, there in zip(
        Resident(filled).search(queries, **asked), filled.search(queries, **asked), strict=True
    ):
        assert [hit.id for hit in here] == [hit.id for hit in there]
        scores = [hit.score for hit in there]
        assert [hit.score for hit in here] == pytest.approx(scores, abs=1e-6)
        assert [hit.metadata for hit in here] == [hit.metadata for hit in there]


def test_an_engine_searches_it_like_an_index(filled: Index, embedder: Any) -> None:
    resident = SearchEngine(embedder, Resident(filled))
    plain = SearchEngine(embedder, filled)
    assert [hit.id for hit in resident.similar("08")] == [hit.id for hit in plain.similar("08")]
    hybrid = [search_hybrid(one, word_search(one.index), "c7", k=5) for one in (resident, plain)]
    assert [hit.id for hit in hybrid[0]] == [hit.id for hit in hybrid[1]]


def test_own_writes_are_seen_by_the_next_search(
    filled: Index, embedder: Any, make_record: Callable[..., Record]
) -> None:
    resident = Resident(filled)

    def nearest(name: str, **asked: Any) -> str:
        return resident.search(embedder.direction(name.encode())[np.newaxis], 1, **asked)[0][0].id

    assert nearest("new") != "new"
    filled.upsert([make_record("new", metadata={"n": 99})])
    assert nearest("new", filter='metadata["n"] == 99') == "new"
    # Another vector and other words for an id that is there.
    filled.upsert([make_record("new", vector=embedder.direction(b"other"), metadata={"n": 1})])
    assert nearest("other") == "new"
    assert resident.search(embedder.direction(b"x")[np.newaxis], filter='metadata["n"] == 99') == [
        []
    ]
    filled.delete(["new"])
    assert nearest("other") != "new"
    assert len(resident) == 40


def test_writes_of_others_are_seen_after_a_look(
    filled: Index, make_index: Callable[..., Index], make_record: Callable[..., Record]
) -> None:
    patient, eager = Resident(filled, check_s=1e9), Resident(filled, check_s=0.0)
    other = make_index()
    other.upsert([make_record("new")])
    query = make_record("new").vector[np.newaxis]
    assert eager.search(query, 1)[0][0].id == "new"
    assert patient.search(query, 1)[0][0].id != "new"
    patient.refresh()
    assert patient.search(query, 1)[0][0].id == "new"
    other.delete(["new"])
    # Not known to be gone, but Milvus, which is asked for what it knew 5 s ago, has the last word.
    deadline = time.monotonic() + 30
    while patient.search(query, 1)[0][0].id == "new":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_empty_collection_has_no_answers(index: Index, embedder: Any) -> None:
    resident = Resident(index)
    assert resident.search(embedder.direction(b"x")[np.newaxis]) == [[]]
    ids, vectors = resident.vectors()
    assert (ids, vectors.shape) == ([], (0, 16))


def test_limits_are_those_of_an_index(filled: Index, embedder: Any) -> None:
    resident = Resident(filled)
    query = embedder.direction(b"x")[np.newaxis]
    for k, offset in ((0, 0), (1, -1), (16_385, 0)):
        with pytest.raises(SearchError, match="at most"):
            resident.search(query, k, offset=offset)
    with pytest.raises(SearchError, match="length must be 1"):
        resident.search(2 * query)


def test_a_collection_that_lite_is_slow_with_is_told(index: Index) -> None:
    info = replace(index.info, server_version="milvus_lite-3.2.2")
    assert advice_on_size(replace(info, count=99_999)) == ""
    assert "100,000 records are many" in advice_on_size(replace(info, count=100_000))
    assert "300,000 records are far too many" in advice_on_size(replace(info, count=300_000))
    assert advice_on_size(replace(info, count=300_000, server_version="v2.6.4")) == ""
