"""Records that move to rows of deleted ones: shorter collections, the same answers."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import search_oracle as oracle
from coca.search.filters import where
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.sqlite.check import check_file
from coca.search.sqlite.codes import BLOCK_ROWS
from coca.search.store import Collection
from coca.search.stores import open_store
from small_blocks import ROWS, use_small_blocks
from store_writer import DIM, direction, record

COUNT = 200
TEXT = "word3 and word5"


def check(collection: Collection) -> dict[str, Record]:
    """Compare searches with brute force over all records, and return these."""
    records = [one for page in collection.pages() for one in page]
    query, words = direction("7"), oracle.Words(records)
    for filter in ("", where("caption", "==", "")):
        options = SearchOptions(limit=1_000, filter=filter)
        kept = [one for one in records if not (filter and one.caption)]
        hits = collection.nearest(query[np.newaxis], options)[0]
        oracle.check(hits, oracle.rank(kept, query, options), options)
    options = SearchOptions(limit=1_000)
    hits = collection.ranked(TypedQuery(query, TEXT, oracle.SPREADS), Ranking(), options)
    expected = oracle.rank(
        records,
        query,
        options,
        ranking=Ranking(),
        bm25=words.bm25(TEXT, Ranking()),
        matches=lambda id: words.matches(id, TEXT),
    )
    oracle.check(hits, expected, options)
    return {one.id: one for one in records}


def values(path: Path, sql: str) -> tuple[int, ...]:
    with closing(sqlite3.connect(path)) as file:
        return tuple(file.execute(sql).fetchone())


def rows_of(path: Path) -> int:
    (rows,) = values(path, "SELECT rows FROM collections")
    return rows


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with 200 records in 13 blocks of 16 rows."""
    use_small_blocks(monkeypatch.setattr)
    path = tmp_path / "a.db"
    with open_store(str(path), create=True) as store:
        collection = store.create("c", embed_dim=DIM, fingerprint="one")
        collection.upsert(record(f"{n}", n) for n in range(COUNT))
    return path


@pytest.mark.parametrize("seed", range(4))
def test_searches_are_those_of_brute_force_while_records_move(path: Path, seed: int) -> None:
    chance, most = random.Random(seed), 0
    with open_store(str(path)) as store, open_store(str(path)) as other, open_store(str(path)) as o:
        collection, reader, rare = store.open("c"), other.open("c"), o.open("c")
        expected = check(collection)
        for step in range(40):
            ids = [f"{chance.randrange(COUNT)}" for _ in range(chance.randrange(1, 16))]
            if chance.random() < 0.7:
                collection.delete(ids)
                expected = {id: one for id, one in expected.items() if id not in ids}
            else:
                new = {id: record(id, chance.randrange(1_000)) for id in ids}
                collection.upsert(new.values())
                expected |= new
            most = max(most, rows_of(path))
            assert check(reader) == expected
            if step % 10 == 0:
                assert check(rare) == check(collection) == expected
        collection.delete(expected)
        assert check(rare) == check(reader) == {}
        assert (most, rows_of(path)) == (COUNT, 0)
        collection.upsert([record("new", 3)])
        assert [*check(rare)] == [*check(reader)] == ["new"]
    assert check_file(str(path), full=True).findings == ()


def test_what_changed_includes_records_that_moved_only_as_they_were(path: Path) -> None:
    with open_store(str(path)) as store:
        collection = store.open("c")
        before, version = collection.get(collection.ids()), collection.changes().version
        deleted = [f"{n}" for n in range(0, COUNT, 2)]
        collection.delete(deleted)
        changes = collection.changes(version)
        assert changes.ids is not None
        assert set(deleted) <= set(changes.ids)
        stored = collection.get(before)
        assert stored == {id: one for id, one in before.items() if id not in deleted}
        for id, one in stored.items():
            np.testing.assert_array_equal(one.vector, before[id].vector)


def test_a_repair_moves_records_where_a_deletion_did_not(path: Path) -> None:
    with open_store(str(path)) as store:
        collection = store.open("c")
        deleted = [f"{n}" for n in range(COUNT) if n % 3]
        collection.update(deleted, lambda stored: dict.fromkeys(stored))
        expected = check(collection)
        assert rows_of(path) == COUNT
        assert check_file(str(path), repair=True).findings == ()
        assert rows_of(path) <= 4 * len(expected) / 3 + ROWS
        assert check(collection) == expected
    assert check_file(str(path), full=True).findings == ()


def test_a_search_reads_fewer_rows_and_pages_become_free(tmp_path: Path) -> None:
    path, chance = tmp_path / "a.db", random.Random(0)
    size = 3 * BLOCK_ROWS
    pages = "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count"
    vector = direction("1")
    with open_store(str(path), create=True) as store:
        collection = store.create("c", embed_dim=DIM, fingerprint="one")
        some = [Record(id=f"{n}", path=f"{n}", vector=vector) for n in range(size)]
        collection.upsert(some)
        gone = chance.sample(some, size * 6 // 10)
        collection.delete(one.id for one in gone)
        assert rows_of(path) <= 2 * BLOCK_ROWS
        count, free = values(path, pages)
        assert free > count / 4
        collection.upsert(replace(one, id=f"new {one.id}") for one in gone[: len(gone) // 3])
        after, left = values(path, pages)
        assert after == count
        assert left < free
    assert check_file(str(path), full=True).findings == ()


DELETE = """
import os, sys
from small_blocks import use_small_blocks
from coca.search.stores import open_store
use_small_blocks()
with open_store(sys.argv[1]) as store:
    collection = store.open("c")
    os.write(1, b"open\\n")
    ids = sys.argv[2].split()
    for at in range(0, len(ids), 7):
        collection.delete(ids[at : at + 7])
        os.write(1, b"done\\n")
"""


def killed(path: Path, ids: list[str], after_s: float) -> int:
    """Delete seven records a call in a process that is killed; return how many calls returned."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", DELETE, str(path), " ".join(ids)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0].count(b"done\n")


def rounds() -> Iterator[tuple[int, random.Random]]:
    for number in range(int(os.environ.get("KILLS", "6"))):
        yield number, random.Random(number)


@pytest.mark.distributed
def test_a_deletion_that_is_killed_while_records_move_loses_none(path: Path) -> None:
    source, moved = path.read_bytes(), 0
    with open_store(str(path)) as store:
        before = check(store.open("c"))
    for number, chance in rounds():
        copy = path.with_name(f"{number}.db")
        copy.write_bytes(source)
        ids = chance.sample(sorted(before), COUNT - 20)
        returned = killed(copy, ids, chance.uniform(0, 0.4))
        with open_store(str(copy)) as store:
            found = check(store.open("c"))
        possible = [ids[: 7 * calls] for calls in (returned, returned + 1)]
        assert found.keys() in [before.keys() - set(gone) for gone in possible]
        assert found == {id: before[id] for id in found}
        report = check_file(str(copy), full=True)
        assert report.findings == ()
        moved += rows_of(copy) < COUNT
    assert moved
