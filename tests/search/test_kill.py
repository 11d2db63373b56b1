"""Processes of a SQLite file that are killed at any moment.

Two write to one collection and promote others, a third indexes, reindexes and migrates in the same
file. After each round the file must be sound, and have what each call that returned has written.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import search_oracle as oracle
import store_indexer
import store_writer
from coca.search.ranking import TypedQuery
from coca.search.records import Record, content_id
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Store
from coca.search.stores import open_collection, open_store
from store_indexer import INDEXED, Slow, copy_of
from store_writer import SHARED, State, direction, operations

KILLS = int(os.environ.get("KILLS", "6"))
"""Number of kills; more take minutes: `KILLS=100 pytest tests/search/test_kill.py`."""

WRITERS = (0, 1)
MOST_S = 0.7
"""Seconds after which a process is killed at the latest."""


def kill_processes(uri: str, folder: Path, number: int, chance: random.Random) -> list[int]:
    """Start all processes, kill each at a random moment; return how many calls of writers returned.

    The one that indexes may be done before.
    """
    scripts = [[store_writer.__file__, uri, f"{writer}", f"{number}"] for writer in WRITERS]
    scripts.append([store_indexer.__file__, uri, str(folder), f"{number}"])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, *script], stdout=subprocess.PIPE, env=environment)
        for script in scripts
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
    start = time.monotonic()
    order = sorted((chance.uniform(0, MOST_S), at) for at in range(len(processes)))
    for moment_s, at in order:
        time.sleep(max(0.0, start + moment_s - time.monotonic()))
        processes[at].send_signal(signal.SIGKILL)
    lines = [process.communicate()[0] for process in processes]
    *writers, indexer = [process.returncode for process in processes]
    assert writers == [-signal.SIGKILL] * len(WRITERS)
    assert indexer in (-signal.SIGKILL, 0)
    return [printed.count(b"done\n") for printed in lines[: len(WRITERS)]]


def states_after(state: State, writer: int, seed: int, returned: int) -> tuple[State, State]:
    """Return the state after the calls that returned, and after the one that was interrupted."""
    for operation in islice(operations(writer, seed), returned):
        state = operation.after(state)
    interrupted = next(islice(operations(writer, seed), returned, None))
    return state, interrupted.after(state)


def of_writer(state: State, writer: int) -> State:
    """Select what one writer wrote."""
    shared = {id: one for id, one in state[SHARED].items() if id.startswith(f"{writer}-")}
    own = f"own_{writer}"
    return {SHARED: shared} | ({own: state[own]} if own in state else {})


def check_file(uri: str) -> None:
    with closing(sqlite3.connect(uri)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def read_all(store: Store, name: str) -> dict[str, Record]:
    """Read a collection, and check that its searches are those of brute force over its records."""
    collection = store.open(name)
    read = [one for page in collection.pages(size=20) for one in page]
    by_id = {one.id: one for one in read}
    assert len(by_id) == len(read) == collection.describe().count
    query, words = direction("7"), oracle.Words(read)
    for group_by in ("image", "path"):
        options = SearchOptions(limit=1_000, group_by=group_by)
        hits = collection.nearest(query[np.newaxis], options)[0]
        oracle.check(hits, oracle.rank(read, query, options), options)
        for ranking in (Ranking(), Ranking(captions="all")):
            typed = TypedQuery(query, "word3 and word5", oracle.SPREADS)
            hits = collection.ranked(typed, ranking, options)
            expected = oracle.rank(
                read,
                query,
                options,
                ranking=ranking,
                bm25=words.bm25(typed.text, ranking),
                matches=lambda id: words.matches(id, "word3 and word5"),
            )
            oracle.check(hits, expected, options)
    return by_id


def check_vectors(records: Iterable[Record], same: dict[str, Record]) -> None:
    """Compare vectors, which a comparison of records leaves out."""
    for one in records:
        other = same[one.id]
        np.testing.assert_array_equal(one.vector, other.vector)
        np.testing.assert_array_equal(one.text_vector, other.text_vector)


def change_files(folder: Path, chance: random.Random, number: int) -> None:
    """Delete, add, change and copy images and captions."""
    for n in range(24):
        path = folder / f"{n:02}.jpg"
        if chance.random() < 0.1:
            path.unlink(missing_ok=True)
        elif chance.random() < 0.4 or not path.exists():
            path.write_bytes(b"%d" % chance.randrange(12 * number, 12 * number + 18))
        if chance.random() < 0.2:
            path.with_suffix(".txt").write_text(f"word{chance.randrange(1000)}")


def check_indexed(records: Iterable[Record], folder: Path, number: int) -> None:
    """Check that each file has one record, of its bytes and caption now."""
    model, paths = Slow(number + 1), set()
    for record in records:
        path, image = Path(record.path), Path(record.path).read_bytes()
        paths.add(path)
        sidecar = path.with_suffix(".txt")
        caption = sidecar.read_text() if sidecar.exists() else ""
        assert (record.content, record.caption) == (content_id(image), caption)
        np.testing.assert_array_equal(record.vector, model.embed_images([image])[0])
        assert (record.text_vector is not None) == bool(caption)
    assert paths == set(folder.glob("*.jpg"))


def kill_many(folder: Path, kills: int) -> int:
    """Kill processes, check everything after each round, and return the number of calls."""
    uri, images, chance = str(folder / "pictures.db"), folder / "images", random.Random(kills)
    images.mkdir()
    state: State = {SHARED: {}}
    calls = 0
    with open_store(uri, create=True) as store:
        store.create(SHARED, embed_dim=store_writer.DIM, fingerprint="one")
    for number in range(kills // (len(WRITERS) + 1)):
        change_files(images, chance, number)
        returned = kill_processes(uri, images, number, chance)
        calls += sum(returned)
        check_file(uri)
        with open_store(uri) as store:
            found = {info.collection: read_all(store, info.collection) for info in store.list()}
        for writer in WRITERS:
            possible = states_after(of_writer(state, writer), writer, number, returned[writer])
            there = of_writer(found, writer)
            assert there in possible, f"writer {writer} of round {number}"
            expected = possible[possible.index(there)]
            for name, records in there.items():
                check_vectors(records.values(), expected[name])
        state = found
        store_indexer.index(uri, images, number)
        with open_store(uri) as store, open_collection(copy_of(uri), f"copy_{number}") as copy:
            indexed = read_all(store, INDEXED)
            assert not [info for info in store.list() if "_new_" in info.collection]
            assert {one.id: one for page in copy.pages() for one in page} == indexed
        check_indexed(indexed.values(), images, number)
        check_file(copy_of(uri))
    return calls


@pytest.mark.distributed
@pytest.mark.timeout(1800)
def test_killed_processes_lose_nothing_and_leave_no_half_of_a_call(tmp_path: Path) -> None:
    assert kill_many(tmp_path, KILLS) > 0
