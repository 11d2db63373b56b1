"""Readers and writers in several processes: no error, and no stale answer after a commit."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.ranking import TypedQuery
from coca.search.records import Record
from coca.search.search_options import Ranking, SearchOptions
from coca.search.store import Collection, Store
from coca.search.stores import open_or_create, open_store
from store_writer import DIM, direction

READERS, THREADS, WRITERS, WRITES = 4, 2, (0, 1), 50
KEPT = 20
"""Number of records of a writer that stay; it deletes the one before."""


def record(writer: int, number: int) -> Record:
    id, caption = f"{writer}-{number}", f"writer{writer} unique{writer}x{number}"
    vector = direction(id)
    return Record(id=id, path="", caption=caption, vector=vector, text_vector=vector)


def write(collection: Collection, folder: Path, writer: int) -> None:
    """Insert and delete records one by one; after each, write its number to a file."""
    file = os.open(folder / f"{writer}", os.O_WRONLY | os.O_CREAT)
    for number in range(WRITES):
        collection.upsert([record(writer, number)])
        collection.delete([record(writer, number - KEPT).id])
        os.pwrite(file, number.to_bytes(8, "little"), 0)
    os.close(file)


def last_of(folder: Path, writer: int) -> int:
    """Return the number of the last write that returned; -1 before the first one."""
    file = folder / f"{writer}"
    data = file.read_bytes() if file.exists() else b""
    return int.from_bytes(data, "little") if data else -1


def read(collection: Collection, folder: Path) -> None:
    """Search for the last record of each writer until both are done."""
    rounds, options = 0, SearchOptions(limit=3)

    def nearest(record: Record) -> list[str]:
        return [hit.id for hit in collection.nearest(record.vector[np.newaxis], options)[0]]

    while min(last_of(folder, writer) for writer in WRITERS) < WRITES - 1:
        for writer in WRITERS:
            if (number := last_of(folder, writer)) < 0:
                continue
            newest, gone = record(writer, number), record(writer, number - KEPT)
            query = TypedQuery(newest.vector, newest.caption)
            ranked = collection.ranked(query, Ranking(), options)
            answers = [
                nearest(newest),
                [hit.id for hit in ranked],
                [id for id, _ in collection.words(f"unique{writer}x{number}", 3)],
                [hit.id for hit in collection.hits({newest.id: 1.0})],
            ]
            assert gone.id not in nearest(gone), f"{gone.id} was deleted"
            assert collection.get([gone.id]) == {}
            # The writer may have gone on while this process waited for the processor.
            if last_of(folder, writer) + 1 < number + KEPT:
                assert all(ids[:1] == [newest.id] for ids in answers), (newest.id, answers)
            rounds += 1
    assert rounds > 0


@pytest.mark.distributed
def test_readers_of_other_processes_find_each_acknowledged_write_at_once(
    uri: str, store: Store, tmp_path: Path
) -> None:
    collection = store.create("pictures", embed_dim=DIM, fingerprint="one")
    collection.upsert(record(9, number) for number in range(2_000))
    command = [sys.executable, __file__, uri, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([*command, *role], stderr=subprocess.PIPE, text=True, env=environment)
        for role in [*([f"{writer}"] for writer in WRITERS), *[[]] * READERS]
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    expected = {f"{writer}-{n}" for writer in WRITERS for n in range(WRITES - KEPT, WRITES)}
    assert set(collection.ids('id < "9"')) == expected


def test_programs_that_create_the_same_collection_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {"embed_dim": DIM, "fingerprint": "f", "model": "m"}
    with open_store(str(tmp_path / "a.db"), create=True) as store:
        store.create("c", **made)
        answers = iter([False, True])
        monkeypatch.setattr(store, "has", lambda name: next(answers))
        assert open_or_create(store, "c", **made).info.collection == "c"
        monkeypatch.undo()
        with pytest.raises(SearchError, match=r"collection 'c' .* already"):
            open_or_create(store, "C", **made)


if __name__ == "__main__":
    uri, folder, *writer = sys.argv[1:]
    with open_store(uri) as store:
        collection = store.open("pictures")
        if writer:
            write(collection, Path(folder), int(writer[0]))
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(partial(read, collection), [Path(folder)] * THREADS):
                    pass
