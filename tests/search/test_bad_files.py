"""Files that are no store, and disks that a store cannot work on: one sentence, nothing lost."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import CocaError, StorageError
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Collection, Store
from coca.search.stores import open_collection, open_store
from limited_disk import LimitedDisk, limited_disk

DIM = 16
OPTIONS = SearchOptions()
AXIS = np.eye(DIM, dtype=np.float32)[:1]


def record(id: str) -> Record:
    return Record(id=id, path="", caption="a cat", vector=AXIS[0])


def filled(uri: str | Path, *ids: str) -> None:
    """Create a collection `pictures` of these records."""
    model: dict[str, Any] = {"embed_dim": DIM, "fingerprint": "one", "create": True}
    with open_collection(str(uri), **model) as collection:
        collection.upsert(map(record, ids))


def fault_of(act: Callable[[], object]) -> str:
    """Return the message of the error that a call raises: one line."""
    with pytest.raises(CocaError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE history (url TEXT)")


def pragma(statement: str, path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {statement}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def cut(path: Path) -> None:
    filled(path)
    os.truncate(path, 5_000)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program": (another_program, "a file of another program"),
    "another application": (partial(pragma, "application_id=1"), "a file of another program"),
    "text": (lambda path: path.write_text("name,caption\n" * 50), "a file of another program"),
    "JPEG": (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0" * 99), "a file of another program"),
    "newer": (partial(pragma, "user_version=99"), "format 99, .* a newer version"),
    "older": (partial(pragma, "user_version=0"), "format 0, .* an older version"),
    "former": (lambda path: (path / "collections").mkdir(parents=True), "is a folder, .* again"),
    "cut off": (cut, "is damaged"),
}


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(("make", "fault"), FILES.values(), ids=FILES)
def test_a_file_that_is_not_a_store_is_named_and_left_alone(
    tmp_path: Path, make: Callable[[Path], object], fault: str, create: bool
) -> None:
    path = tmp_path / "pictures.db"
    make(path)
    data = path.read_bytes() if path.is_file() else b""

    def use() -> None:
        with open_store(str(path), create=create) as store:
            store.open("pictures")

    assert re.search(f"pictures.db .*{fault}", fault_of(use))
    assert (path.read_bytes() if path.is_file() else b"") == data


def test_a_missing_or_empty_file_is_reported_unless_it_may_be_made(tmp_path: Path) -> None:
    path = tmp_path / "below" / "pictures.db"
    message = fault_of(lambda: open_store(str(path)))
    assert re.search("no file .*pictures.db: `coca index FOLDER", message)
    assert not path.parent.exists()
    with open_store(str(path), create=True) as store:
        assert store.list() == []
        assert "it has none" in fault_of(lambda: store.open("pictures"))
    empty, killed = tmp_path / "empty.db", tmp_path / "killed.db"
    empty.touch()
    assert "is empty" in fault_of(lambda: open_store(str(empty)))
    with closing(sqlite3.connect(killed)) as connection:
        # As a process leaves it that is killed before the first table.
        connection.execute("PRAGMA journal_mode=WAL")
    for path in (empty, killed):
        filled(path, "cat")
        with open_collection(str(path)) as collection:
            assert collection.ids() == ["cat"]


@pytest.mark.parametrize("uri", ["localhost:19530", "db.example.com:19530/", "s3://bucket/x.db"])
def test_an_address_that_is_none_of_milvus_is_no_path(uri: str) -> None:
    assert "such as http://localhost:19530" in fault_of(lambda: open_store(uri, create=True))


KEPT = ("collections", "WRITES", "sqlite_cats", "cats_vectors", "CATS_blocks", "cats_by_seq")


def test_names_of_tables_are_kept_and_are_the_same_in_capital_letters(store: Store) -> None:
    create = partial(store.create, embed_dim=DIM, fingerprint="one")
    for name in KEPT:
        assert "kept for tables of the file" in fault_of(partial(create, name))
    create("cats")
    assert "there is a collection 'cats'" in fault_of(partial(create, "CATS"))
    assert [info.collection for info in store.list()] == ["cats"]


def test_settings_of_an_index_and_calls_of_a_closed_store_are_refused(store: Store) -> None:
    create = partial(store.create, "cats", embed_dim=DIM, fingerprint="one")
    assert "no settings" in fault_of(partial(create, settings=object()))
    collection = create()
    store.close()
    store.close()
    for act in (store.list, collection.count, lambda: collection.upsert([record("cat")])):
        assert "was closed" in fault_of(act)


def test_a_drive_of_another_machine_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ones = set[sqlite3.Connection]()

    class Remote(sqlite3.Connection):
        """Answers as SQLite does where the shared memory of WAL does not work."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            open_ones.add(self)

        def close(self) -> None:
            super().close()
            open_ones.discard(self)

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            return super().execute(statement.replace("journal_mode=WAL", "journal_mode"), *values)

    filled(uri, "cat")
    with closing(sqlite3.connect(uri)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Remote))
        message = fault_of(lambda: open_store(uri, create=True))
    assert re.search("network drive: use a local disk, or a Milvus server", message)
    assert open_ones == set()
    with open_collection(uri) as collection:
        assert collection.ids() == ["cat"]


def test_a_writer_waits_for_another_one_and_then_reports_it(uri: str) -> None:
    filled(uri, "cat")
    other = sqlite3.connect(uri, isolation_level=None)
    with open_store(uri, timeout_s=0.2) as store:
        collection = store.open("pictures")
        other.execute("BEGIN IMMEDIATE")
        for act in (
            lambda: collection.upsert([record("dog")]),
            lambda: collection.delete(["cat"]),
            lambda: store.drop("pictures"),
        ):
            assert re.search(r"another program .* more than 0.2 s", fault_of(act))
        # Readers do not wait.
        assert len(collection.nearest(AXIS, OPTIONS)[0]) == 1
        other.execute("ROLLBACK")
        other.close()
        collection.upsert([record("dog")])
        assert collection.ids() == ["cat", "dog"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LimitedDisk]:
    with limited_disk(tmp_path, kind="tmpfs", size_mb=4) as mounted:
        yield mounted


def write_until_full(collection: Collection, name: str, written: set[str]) -> None:
    for n in range(1_000):
        records = [replace(record(f"{name}-{n}-{row}"), caption="x y " * 500) for row in range(9)]
        collection.upsert(records)
        written |= {one.id for one in records}


def test_a_full_disk_loses_nothing_that_was_acknowledged(disk: LimitedDisk, tmp_path: Path) -> None:
    path, written = disk.folder / "pictures.db", {"first"}
    filled(path, "first")
    disk.fill(leave=1 << 20)
    with open_store(str(path)) as store:
        collection = store.open("pictures")
        for attempt in range(3):
            if attempt == 1:
                disk.fill()
            with pytest.raises(StorageError, match=r"the disk of .*pictures.db is full: nothing"):
                write_until_full(collection, f"{attempt}", written)
            assert set(collection.ids()) == written
            assert collection.nearest(AXIS, OPTIONS)
        # As a killed process leaves it.
        copy = tmp_path / "copy"
        shutil.copytree(disk.folder, copy, ignore=shutil.ignore_patterns("filler"))
    with open_store(str(copy / "pictures.db")) as store:
        assert set(store.open("pictures").ids()) == written
    disk.clear()
    with open_collection(str(path)) as collection:
        assert set(collection.ids()) == written
        collection.delete([*written][:20])
        collection.upsert([record("more")])
        assert collection.count() == len(written) - 20 + 1


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_file_on_a_full_disk_is_opened_and_searched(kind: str, tmp_path: Path) -> None:
    with limited_disk(tmp_path, kind=kind, size_mb=4) as disk:
        path = disk.folder / "pictures.db"
        filled(path, "cat")
        disk.fill()
        with open_store(str(path)) as store:
            collection = store.open("pictures")
            assert collection.nearest(AXIS, OPTIONS)[0][0].id == "cat"
            sentence = fault_of(lambda: collection.upsert([record("dog")]))
            assert re.search("the disk of .*pictures.db is full: nothing", sentence)
            disk.clear()
            # The same store writes as soon as there is space, and finds what others write.
            collection.upsert([record("dog")])
            filled(path, "fish")
            assert sorted(collection.ids()) == ["cat", "dog", "fish"]


KILLED = """
import os, signal, sys
from dataclasses import replace
from coca.search.stores import open_store
pets = lambda stored: {id: replace(one, album="pets") for id, one in stored.items()}
open_store(sys.argv[1]).open("pictures").update(["cat"], pets)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("left", [(), ("-wal", "-shm"), ("-wal",)])
def test_a_read_only_disk_is_searched_and_not_written(
    disk: LimitedDisk, left: tuple[str, ...]
) -> None:
    path = disk.folder / "pictures.db"
    filled(path, "cat")
    if left:
        # The log of a killed writer, without which its last write would be missing.
        subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
        assert path.with_name("pictures.db-wal").stat().st_size
    if left == ("-wal",):
        path.with_name("pictures.db-shm").unlink()
    disk.lock()
    if left == ("-wal",):
        assert re.search("pictures.db .* read-only", fault_of(lambda: open_store(str(path))))
        return
    with open_store(str(path)) as store:
        collection = store.open("pictures")
        assert collection.nearest(AXIS, OPTIONS)[0][0].album == "pets" * bool(left)
        assert collection.ranked(TypedQuery(AXIS[0], "cats"), Ranking(), OPTIONS)[0].id == "cat"
        for act in (lambda: collection.upsert([record("dog")]), lambda: store.drop("pictures")):
            assert re.search("pictures.db cannot be written: .*read-only", fault_of(act))
        if not left:
            # What another process writes after all is found.
            disk.lock("rw")
            filled(path, "dog")
            assert collection.count() == len(collection.ids()) == 2
            disk.lock()
    new = partial(open_store, str(disk.folder / "new.db"), create=True)
    assert re.search("new.db cannot be made: .*ead-only", fault_of(new))


def test_a_file_that_is_replaced_while_it_is_open_is_not_written(tmp_path: Path) -> None:
    path, other = tmp_path / "pictures.db", tmp_path / "other.db"
    filled(path, "cat")
    filled(other, "dog")
    with open_store(str(path)) as store:
        collection = store.open("pictures")
        assert collection.ids() == ["cat"]
        other.replace(path)
        for act in (collection.ids, lambda: collection.upsert([record("bird")])):
            assert "pictures.db was replaced" in fault_of(act)
        path.unlink()
        assert "pictures.db was replaced or removed" in fault_of(collection.count)
