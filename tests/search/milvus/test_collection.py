from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.milvus import schema
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.records import Origin, Record

pytestmark = pytest.mark.contract

MakeIndex = Callable[..., Collection]
MakeRecord = Callable[..., Record]


def test_what_is_written_can_be_read_back(collection: Collection, make_record: MakeRecord) -> None:
    record = make_record(
        "cat",
        caption='a "cat"\n\\ ä',
        width=640,
        height=480,
        time=-5,
        tags=("cat", 'ä "quoted" one'),
        album="holiday",
        metadata={"n": 1, "deep": {"list": [1.5, None, "x"]}},
        text_vector=make_record("a cat").vector,
        origin=Origin(files={"/pictures/cat.jpg": "1-2"}, label="abc", captioned=True),
    )
    assert collection.upsert([record, make_record("dog")]) == 2
    found = collection.get(["cat", "absent"])
    assert found == {"cat": record}
    assert np.array_equal(found["cat"].vector, record.vector)
    assert found["cat"].text_vector is not None
    assert np.array_equal(found["cat"].text_vector, make_record("a cat").vector)
    hit = collection.search(record.vector[np.newaxis], 1)[0][0]
    assert (hit.width, hit.height, hit.time) == (640, 480, -5)
    assert (hit.tags, hit.album) == (record.tags, "holiday")


def test_a_record_of_the_same_id_is_replaced(
    collection: Collection, make_record: MakeRecord
) -> None:
    collection.upsert([make_record("cat", caption="old")])
    # Twice in one batch: the last record wins.
    collection.upsert([make_record("cat", caption="newer"), make_record("cat", caption="newest")])
    assert collection.count() == 1
    assert collection.get(["cat"])["cat"].caption == "newest"


def test_a_search_returns_cosines_in_order(collection: Collection, make_record: MakeRecord) -> None:
    records = [make_record(str(n), caption=f"c{n}", metadata={"n": n}) for n in range(50)]
    collection.upsert(records)
    collection.flush()
    queries = np.stack([make_record(name).vector for name in ("7", "a", "b")])
    cosines = queries @ np.stack([record.vector for record in records]).T
    answers = collection.search(queries, 5)
    for row, hits in zip(cosines, answers, strict=True):
        best = np.argsort(-row)[:5]
        assert [hit.id for hit in hits] == [records[n].id for n in best]
        assert [hit.score for hit in hits] == pytest.approx(row[best], abs=1e-5)
    first = answers[0][0]
    assert (first.path, first.caption, first.metadata) == ("/pictures/7.jpg", "c7", {"n": 7})


def test_an_empty_collection_answers_with_nothing(collection: Collection) -> None:
    assert collection.search(np.eye(2, 16, dtype=np.float32), 3) == [[], []]
    assert collection.search(np.zeros((0, 16), dtype=np.float32), 3) == []
    assert list(collection.origins()) == []
    assert collection.get([]) == {}


def test_the_collection_names_the_model_that_filled_it(
    make_index: MakeIndex, make_record: MakeRecord
) -> None:
    made = make_index()
    made.upsert([make_record("cat")])
    made.close()
    # As `coca search` opens it: by URI only.
    found = make_index(embed_dim=None, fingerprint=None, model="", create=False)
    info = found.describe()
    assert (info.count, info.embed_dim) == (1, 16)
    assert (info.fingerprint, info.model) == ("model-one", "runs/one")
    assert info == found.info
    assert info.server_version


def test_another_model_is_refused(make_index: MakeIndex) -> None:
    make_index()
    with pytest.raises(SearchError, match=r"filled by model model-one \(runs/one\), and not by m2"):
        make_index(fingerprint="m2")
    with pytest.raises(SearchError, match="has vectors of 16 numbers of this model, and not of 32"):
        make_index(embed_dim=32)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"collection": "cats", "create": False},
            r"no collection 'cats' in .*\(there are: .*`coca",
        ),
        ({"collection": "absent", "fingerprint": None}, "name embed_dim and fingerprint"),
        ({"collection": "cats_texts"}, "kept for the captions of another"),
        *(
            ({"collection": name}, "cannot name a collection")
            for name in ("", "1st", "a-b", "ä", "x" * 300)
        ),
    ],
)
def test_a_collection_that_cannot_be_opened_or_made_is_an_error(
    make_index: MakeIndex, changes: dict[str, Any], fault: str
) -> None:
    make_index()
    with pytest.raises(SearchError, match=fault):
        make_index(**changes)


def test_an_empty_database_is_reported_as_empty(tmp_path: Path) -> None:
    Connection(str(tmp_path / "a.db"), create=True).close()
    with pytest.raises(SearchError, match="it is empty"):
        Collection.open(str(tmp_path / "a.db"))


def test_a_collection_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "pictures.db")
    connection = Connection(uri, create=True)
    connection.client.create_collection("foreign", dimension=16, timeout=10)
    with pytest.raises(
        SearchError,
        match=r"was not made by `coca index`: it does not record the model of its vectors, and "
        r"lacks the fields path, caption, album, .*, origin; import its records",
    ):
        Collection.open(uri, "foreign")
    connection.close()


def test_a_collection_whose_making_was_interrupted_is_finished(
    make_index: MakeIndex, fresh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(connection: Connection, layout: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(schema, "load_collection", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_index(collection=fresh)
    assert make_index(collection=fresh).count() == 0


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"vector": np.full(16, np.nan, np.float32)}, r"record b \(/pictures/b.jpg\) has .*NaN"),
        ({"vector": np.ones(4, np.float32)}, "record b .* 4 numbers; this collection has 16"),
        ({"text_vector": np.zeros(16, np.float32)}, "the caption of record b .* length 0"),
        ({"metadata": {"x": float("nan")}}, "record b .* cannot be stored: the metadata"),
        ({"id": ""}, "cannot be stored: the id is empty"),
        ({"id": "dir\\new.jpg"}, r"the id must not contain quotes, .* got '\\\\'"),
        ({"id": 'a "b"'}, "the id must not contain quotes, .* got '\"'"),
        ({"id": "two\nlines"}, r"the id must not contain .* got '\\n'"),
        ({"id": "é" * 33}, "the id has 66 bytes; at most 64 fit"),
        ({"tags": tuple("a" * 300)}, "300 tags; at most 256 fit"),
        ({"tags": ("x" * 600,)}, "tag 'xxx.* has 600 bytes; at most 512 fit"),
        ({"width": -1}, "the width is -1; it may be 0 to"),
        ({"height": True}, "the height is True, and not a whole number"),
        ({"time": 2**63}, "the time is 9,223,.*; it may be"),
        ({"album": "x" * 5_000}, "the album has 5,000 bytes"),
    ],
)
def test_a_record_that_cannot_be_stored_is_named(
    collection: Collection, make_record: MakeRecord, fields: Any, fault: str
) -> None:
    with pytest.raises(SearchError, match=fault):
        collection.upsert([make_record("a"), replace(make_record("b"), **fields)])
    assert collection.count() == 0


def test_no_id_reaches_another_record(collection: Collection, make_record: MakeRecord) -> None:
    odd = ["it's.jpg", "Katze 🐈", "%_[]()", "'] or id != ''", "x' or 'x' == 'x"]
    collection.upsert(make_record(id) for id in [*odd, "plain"])
    assert set(collection.ids()) == {*odd, "plain"}
    assert {id: record.id for id, record in collection.get(odd).items()} == {id: id for id in odd}
    assert sum(len(batch) for batch in collection.read_through()) == len(odd) + 1
    others = ["x'] or id != '' or id in ['y", 'x"] or id != "" or id in ["y', "a\\", "a\nb"]
    collection.delete(others)
    assert collection.count() == len(odd) + 1
    assert collection.get(others) == {}
    for id in odd:
        collection.delete([id])
        assert collection.get([id]) == {}
    assert collection.ids() == ["plain"]


def test_a_query_that_cannot_be_compared_is_refused(collection: Collection) -> None:
    with pytest.raises(SearchError, match="query 1 has a vector of length 0"):
        collection.search(np.eye(1, 16, dtype=np.float32).repeat(2, 0) * [[1], [0]])
    with pytest.raises(SearchError, match="at most 16,384, got 16,000 and 400"):
        collection.search(np.eye(1, 16, dtype=np.float32), 16_000, offset=400)


@pytest.mark.parametrize("filter", ["bogus == 3", 'caption == "x', "((", "caption == 5"])
def test_a_bad_filter_is_named_with_the_reason(collection: Collection, filter: str) -> None:
    for ask in (
        collection.count,
        lambda f: collection.search(np.eye(1, 16, dtype=np.float32), filter=f),
    ):
        with pytest.raises(SearchError, match="does not understand the filter") as caught:
            ask(filter)
        assert repr(filter) in str(caught.value)
        assert "\n" not in str(caught.value)


def ids(answers: list[list[Any]]) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in answers]
