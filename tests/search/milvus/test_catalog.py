"""Collection aliases: switched atomically, without effect on open clients."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import SearchError
from coca.search.milvus import catalog
from coca.search.milvus.catalog import drop_collection, list_all, point_alias
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.milvus.schema import has_collection, list_collections
from coca.search.records import Record
from milvus_server import free_port

MakeIndex = Callable[..., Collection]
MakeRecord = Callable[..., Record]


@pytest.fixture
def connection(make_index: MakeIndex, uri: str) -> Iterator[Connection]:
    make_index()
    opened = Connection(uri, create=False)
    yield opened
    opened.close()


@pytest.fixture
def names_made(connection: Connection, fresh: str) -> Iterator[Callable[[], set[str]]]:
    """Own names created by a test; they are dropped after it."""

    def made() -> set[str]:
        return {name for name in list_collections(connection) if name.startswith(fresh)}

    yield made
    while left := made():
        drop_collection(connection, min(left))
    assert not any(alias.startswith(fresh) for alias in catalog.aliases(connection))


def test_open_readers_keep_their_collection_when_the_name_is_switched_and_writers_fail(
    connection: Connection,
    make_index: MakeIndex,
    make_record: MakeRecord,
    fresh: str,
    names_made: Callable[[], set[str]],
) -> None:
    text_vector = make_record("words").vector
    one = make_index(collection=fresh)
    one.upsert([make_record("old", text_vector=text_vector)])
    two = make_index(collection=fresh, fingerprint="model-two", staged=True)
    two.upsert([make_record("new", text_vector=text_vector)])
    assert point_alias(connection, fresh, two.own_name) == one.own_name
    assert names_made() == {one.own_name, two.own_name}

    for write in (
        lambda: one.upsert([make_record("late", text_vector=text_vector)]),
        lambda: one.delete(["new"]),
    ):
        with pytest.raises(SearchError, match=f"now refers to '{two.own_name}'"):
            write()
    # By its own name it is still written.
    make_index(collection=one.own_name).upsert([make_record("old", text_vector=text_vector)])
    assert sorted(one.ids()) == ["late", "old"]
    assert {hit.id for hit in one.search(text_vector[None], on="text")[0]} == {"late", "old"}
    assert two.ids() == ["new"]
    found = make_index(collection=fresh, fingerprint="model-two")
    assert found.ids() == ["new"]
    assert found.search(text_vector[None], on="text")[0][0].id == "new"
    with pytest.raises(SearchError, match="was filled by model model-two"):
        make_index(collection=fresh, fingerprint="model-one")

    # And back: the collection of the first model is found, under any name.
    back = make_index(collection=fresh, fingerprint="model-one", staged=True, create=False)
    assert back.own_name == one.own_name
    assert point_alias(connection, fresh, back.own_name) == two.own_name
    assert sorted(make_index(collection=fresh).ids()) == ["late", "old"]
    assert two.ids() == ["new"]


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.milvus)])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URI of a Milvus instance that several processes can share; Lite can serve a folder so."""
    if request.param == "server":
        yield str(request.getfixturevalue("milvus_server"))
        return
    port = free_port()
    arguments = ["--data-dir", str(tmp_path / "lite.db"), "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen(
        [Path(sys.executable).with_name("milvus-lite"), "server", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()


SECOND_PROCESS = """
import sys
from coca.core.errors import SearchError
from coca.search.milvus.collection import Collection
from coca.search.records import Record
import numpy as np
index = Collection.open(sys.argv[1], sys.argv[2], fingerprint="model-one")
print("ready", flush=True)
for line in sys.stdin:
    id = line.strip()
    try:
        index.upsert([Record(id=id, path=id, vector=np.eye(16, dtype=np.float32)[0])])
    except SearchError as error:
        print(error, flush=True)
        continue
    hits = index.search(np.eye(16, dtype=np.float32)[:1])[0]
    print(*sorted(hit.id for hit in hits), flush=True)
"""


def test_a_process_that_has_it_open_never_meets_the_other_model(
    served: str, make_record: MakeRecord, fresh: str
) -> None:
    connection = connected(served)
    about: dict[str, Any] = {"embed_dim": 16, "create": True}
    with Collection.open(served, fresh, fingerprint="model-one", **about) as one:
        one.upsert([make_record("old")])
        command = [sys.executable, "-c", SECOND_PROCESS, served, fresh]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            subprocess.Popen(command, text=True, bufsize=1, **pipes) as other,
            Collection.open(served, fresh, fingerprint="model-two", staged=True, **about) as two,
        ):
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            two.upsert([make_record("new")])
            other.stdin.write("early\n")
            assert other.stdout.readline() == "early old\n"
            point_alias(connection, fresh, two.own_name)
            other.stdin.write("late\n")
            assert f"now refers to '{two.own_name}'" in other.stdout.readline()
            assert two.ids() == ["new"]
        assert {"early", "old"} <= set(one.ids())
    for own in (one.own_name, two.own_name):
        drop_collection(connection, own)
    connection.close()


def connected(uri: str) -> Connection:
    """Connect to a server that may still be starting."""
    for _ in range(1000):
        try:
            return Connection(uri, create=False, timeout_s=10.0)
        except SearchError:
            time.sleep(0.2)
    raise AssertionError(f"{uri} does not start")


def test_a_killed_process_leaves_a_usable_collection(
    connection: Connection,
    make_index: MakeIndex,
    make_record: MakeRecord,
    fresh: str,
    names_made: Callable[[], set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*args: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(catalog, "create_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            make_index(collection=fresh)
    assert not has_collection(connection, fresh)
    # The leftover collection is used, not created twice.
    collection = make_index(collection=fresh)
    collection.upsert([make_record("cat")])
    assert names_made() == {collection.own_name}
    # Without the alias, a collection with records is never treated as a leftover.
    connection.client.drop_alias(fresh)
    with pytest.raises(SearchError, match=f"alias {fresh} {collection.own_name}` opens them"):
        make_index(collection=fresh)
    assert point_alias(connection, fresh, collection.own_name) == ""
    assert make_index(collection=fresh).ids() == ["cat"]


def test_a_collection_is_dropped_by_its_public_name_and_not_by_another(
    connection: Connection,
    make_index: MakeIndex,
    fresh: str,
    names_made: Callable[[], set[str]],
) -> None:
    collection = make_index(collection=fresh)
    best = f"{fresh}_best"
    assert point_alias(connection, best, fresh) == ""
    (listed,) = (one for one in list_all(connection) if one.own_name == collection.own_name)
    assert (listed.name, listed.count, listed.aliases) == (fresh, 0, (best,))
    with pytest.raises(SearchError, match=f"is an alias of '{collection.own_name}': drop that one"):
        drop_collection(connection, best)
    with pytest.raises(SearchError, match=f"'{fresh}' is the name that can"):
        point_alias(connection, collection.own_name, "coca_tests")
    assert drop_collection(connection, fresh) == collection.own_name
    assert not {fresh, best} & set(catalog.aliases(connection))
    assert not names_made()


def test_what_cannot_be_pointed_is_refused(connection: Connection, fresh: str) -> None:
    with pytest.raises(SearchError, match="there is no collection 'absent'"):
        point_alias(connection, fresh, "absent")
    with pytest.raises(SearchError, match="cannot name a collection"):
        point_alias(connection, "1st", "coca_tests")
    with pytest.raises(SearchError, match="there is no collection 'absent'"):
        drop_collection(connection, "absent")
    with pytest.raises(SearchError, match="has 248 characters, and at most 240 are allowed"):
        catalog.own_name("x" * 248, "model-one")
