"""Edits that were acknowledged stay, next to other editors, index runs and a reindex."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import SearchError
from coca.search.ingest.reindex import reindex
from coca.search.ingest.sources import FileSource
from coca.search.query.engine import SearchEngine
from coca.search.store import Collection, Store
from coca.search.stores import open_store
from store_indexer import Slow
from tiny_ingest import ingest

pytestmark = [pytest.mark.contract, pytest.mark.slow]

EDITS, RUNS, IMAGES = 40, 50, 4
MODEL = Slow(1)


@pytest.fixture(params=["sqlite", "lite", pytest.param("server", marks=pytest.mark.milvus)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "pictures.db")
    pytest.importorskip("pymilvus")
    if request.param == "server":
        return str(request.getfixturevalue("milvus_server"))
    pytest.importorskip("milvus_lite")
    return f"milvus-lite:{tmp_path / 'lite.db'}"


@pytest.fixture
def collection(store: Store, fresh: str, photos: Path) -> Iterator[Collection]:
    created = store.create(fresh, embed_dim=MODEL.embed_dim, fingerprint=MODEL.fingerprint)
    index(created, photos, 0)
    yield created
    store.drop(fresh)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number}.jpg").write_bytes(b"%d" % number)
    return folder


def index(collection: Collection, folder: Path, run: int) -> None:
    """Change all sidecars, and index the folder."""
    for number in range(IMAGES):
        (folder / f"{number}.json").write_text(json.dumps({"tags": [f"t{run}"], "run": run}))
    report = ingest([FileSource([folder])], MODEL, collection)
    assert report.good == IMAGES, report


def edit_keys(collection: Collection, name: str, folder: Path) -> None:
    """Set 40 keys of one record."""
    engine, (id, *_) = SearchEngine(MODEL, collection), collection.ids()
    for number in range(EDITS):
        engine.edit([id], metadata={f"{name}{number}": number})


def edit_until_done(collection: Collection, name: str, folder: Path) -> None:
    """Edit a key of all records, or their captions, until the runs are done; each edit must stay.

    Raises:
        AssertionError: The value of the last edit is no longer there.
    """
    engine, ids = SearchEngine(MODEL, collection), collection.ids()
    last: dict[str, str] = {}
    number = gone = 0
    while not (folder.parent / "done").exists() or number < len(ids):
        id, value = ids[number % len(ids)], f"{name} {number}"
        gone += value_of(collection, name, id) != last.get(id)
        if name == "caption":
            engine.edit([id], caption=value)
        else:
            engine.edit([id], metadata={name: value})
        last[id] = value
        number += 1
    gone += sum(value_of(collection, name, id) != value for id, value in last.items())
    assert not gone, f"{gone} of {number} acknowledged edits of {name!r} are gone"


def edit_until_reindexed(collection: Collection, name: str, folder: Path) -> None:
    """Edit a key of all records until another model has the name; write what was acknowledged."""
    engine, ids = SearchEngine(MODEL, collection), collection.ids()
    last: dict[str, str] = {}
    with suppress(SearchError):
        for number in itertools.count():
            id, value = ids[number % len(ids)], f"{name} {number}"
            engine.edit([id], metadata={name: value})
            last[id] = value
            if (folder.parent / "done").exists():
                break
    (folder.parent / f"{name}.json").write_text(json.dumps(last))


def value_of(collection: Collection, name: str, id: str) -> str | None:
    record = collection.get([id])[id]
    if name != "caption":
        return record.metadata.get(name)
    if record.caption:
        assert record.text_vector is not None
        (vector,) = MODEL.embed_texts([record.caption])
        np.testing.assert_array_equal(record.text_vector, vector)
    return record.caption or None


def run_beside(
    role: Callable[[Collection, str, Path], None],
    names: tuple[str, str],
    collection: Collection,
    folder: Path,
    work: Callable[[], None] = lambda: None,
) -> None:
    """Run a role under two names next to some work: in processes, on Lite in threads."""
    if collection.info.uri.startswith("milvus-lite:"):
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(role, collection, name, folder) for name in names]
            try:
                work()
            finally:
                (folder.parent / "done").touch()
            for future in futures:
                future.result()
        return
    command = [sys.executable, __file__, collection.info.uri, collection.info.collection]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [*command, role.__name__, name, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name in names
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        work()
    finally:
        (folder.parent / "done").touch()
        errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


@pytest.mark.timeout(900)
def test_two_editors_of_one_record_keep_all_their_edits(
    collection: Collection, photos: Path
) -> None:
    run_beside(edit_keys, ("left", "right"), collection, photos)
    (id, *_) = collection.ids()
    keys = {key for key in collection.get([id])[id].metadata if key.startswith(("left", "right"))}
    assert len(keys) == 2 * EDITS


@pytest.mark.timeout(900)
def test_an_index_run_of_changed_sidecars_ends_no_edit(
    collection: Collection, photos: Path
) -> None:
    def work() -> None:
        for run in range(1, RUNS + 1):
            index(collection, photos, run)

    run_beside(edit_until_done, ("title", "caption"), collection, photos, work)
    for record in collection.get(collection.ids()).values():
        assert (record.metadata["run"], record.tags) == (RUNS, (f"t{RUNS}",))


@pytest.mark.timeout(900)
def test_a_reindex_loses_no_edit(store: Store, collection: Collection, photos: Path) -> None:
    name = collection.info.collection

    def work() -> None:
        assert reindex(store, name, Slow(2)).is_promoted

    run_beside(edit_until_reindexed, ("left", "right"), collection, photos, work)
    there = store.open(name)
    records = there.get(there.ids())
    for key in ("left", "right"):
        for id, value in json.loads((photos.parent / f"{key}.json").read_text()).items():
            assert records[id].metadata[key] == value


if __name__ == "__main__":
    address, name, role, key, photos_folder = sys.argv[1:]
    with open_store(address) as opened:
        edited = opened.open(name)
        os.write(1, b"open\n")
        globals()[role](edited, key, Path(photos_folder))
