"""Collections by other names: moved in one step, and never left leading nowhere."""

from collections.abc import Callable, Iterator

import pytest

from coca.core.errors import SearchError
from coca.search.catalog import aliases, drop_collection, point_alias
from coca.search.connection import Connection
from coca.search.milvus import Index
from coca.search.records import Record
from coca.search.schema import list_collections

MakeIndex = Callable[..., Index]
MakeRecord = Callable[..., Record]


@pytest.fixture
def connection(make_index: MakeIndex, place: str) -> Iterator[Connection]:
    make_index()
    opened = Connection(place, create=False)
    yield opened
    opened.close()


def test_a_name_leads_where_it_is_pointed_and_the_old_one_is_kept(
    connection: Connection, make_index: MakeIndex, make_record: MakeRecord, fresh: str
) -> None:
    first, second = f"{fresh}_one", f"{fresh}_two"
    try:
        text_vector = make_record("words").vector
        # The name begins as a collection of its own, as `coca index` makes it.
        old = make_index(collection=fresh)
        old.upsert([make_record("old", text_vector=text_vector)])
        new = make_index(collection=second, fingerprint="model-two")
        new.upsert([make_record("new", text_vector=text_vector)])
        assert point_alias(connection, fresh, second, set_aside=first) == first
        found = make_index(collection=fresh, fingerprint="model-two")
        assert list(found.get(["old", "new"])) == ["new"]
        assert found.search(text_vector[None], on="text")[0][0].id == "new"
        kept = make_index(collection=first)
        assert kept.search(text_vector[None], on="text")[0][0].id == "old"
        # And back, from an alias: nothing is renamed.
        assert point_alias(connection, fresh, first, set_aside="unused") == second
        assert aliases(connection)[fresh] == first
        assert list(make_index(collection=fresh).get(["old", "new"])) == ["old"]
        assert {first, second} <= set(list_collections(connection))
        with pytest.raises(SearchError, match=f"is an alias of '{first}': drop that one"):
            drop_collection(connection, fresh)
    finally:
        for name in {first, second, fresh} & set(list_collections(connection)):
            drop_collection(connection, name)
    assert fresh not in aliases(connection)


def test_what_cannot_be_pointed_is_refused(connection: Connection, fresh: str) -> None:
    with pytest.raises(SearchError, match="there is no collection 'absent'"):
        point_alias(connection, fresh, "absent", set_aside="x")
    with pytest.raises(SearchError, match="is the collection itself"):
        point_alias(connection, "coca_tests", "coca_tests", set_aside="x")
    with pytest.raises(SearchError, match="cannot name a collection"):
        point_alias(connection, "1st", "coca_tests", set_aside="x")
    with pytest.raises(SearchError, match="there is no collection 'absent'"):
        drop_collection(connection, "absent")
