"""Crash safety under `kill -9`, with real processes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coca.search.ingest.ingest_report import IngestReport
from coca.search.milvus.catalog import drop_collection
from coca.search.milvus.collection import Collection
from coca.search.milvus.connection import Connection
from coca.search.records import content_id
from tiny_filling import direction, fill, open_index

KILLS = int(os.environ.get("KILLS", "2"))
"""Number of kills; more take minutes: `KILLS=20 pytest tests/search/test_kill.py`."""

WRITER = """
import sys, threading, numpy as np
from coca.search.milvus.collection import Collection
from coca.search.records import Record
uri, collection, round = sys.argv[1:]
index = Collection.open(uri, collection)
one = np.eye(16, dtype=np.float32)[0]
def write(thread):
    for batch in range(1000):
        names = [f"{round}-{thread}-{batch}-{row}" for row in range(10)]
        index.upsert(Record(id=n, path=n, vector=one, text_vector=one) for n in names)
        sys.stdout.write("".join(n + chr(10) for n in names)); sys.stdout.flush()
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
for thread in threads:
    thread.start()
# An interpreter at exit takes no more requests, not even for its other threads.
for thread in threads:
    thread.join()
"""


INDEXED = """
import os, signal, sys, time, numpy as np
from pathlib import Path
from coca.search.milvus.collection import Collection
from coca.search.records import Record
uri, collection = sys.argv[1:]
vectors = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
index = Collection.open(uri, collection)
index.upsert(Record(id=f"{row:04}", path="p", vector=it) for row, it in enumerate(vectors))
index.flush()
for _ in range(600):
    if found := list(Path(uri).glob("collections/*/partitions/*/indexes/*.idx")):
        print(found[0], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
"""


def test_an_index_file_that_a_killed_process_did_not_finish_is_built_again(tmp_path: Path) -> None:
    uri = str(tmp_path / "pictures.db")
    with Collection.open(uri, "pictures", embed_dim=16, fingerprint="f", model="m", create=True):
        pass
    command = [sys.executable, "-c", INDEXED, uri, "pictures"]
    killed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL
    file = Path(killed.stdout.strip())
    # As after a kill in the middle of writing it.
    os.truncate(file, file.stat().st_size // 2)
    with Collection.open(uri, "pictures") as collection:
        assert collection.count() == 3000
        record = collection.get(["0007"])["0007"]
        assert collection.search(record.vector[None], 1)[0][0].id == "0007"


def test_no_acknowledged_row_of_eight_writers_is_lost_to_a_kill(
    uri: str, make_index: Callable[..., Collection]
) -> None:
    with make_index() as opened:
        collection = opened.info.collection
    names: set[str] = set()
    for round in range(KILLS):
        command = [sys.executable, "-c", WRITER, uri, collection, str(round)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writers:
            assert writers.stdout is not None
            acknowledged = [writers.stdout.readline() for _ in range(300)]
            os.kill(writers.pid, signal.SIGKILL)
            acknowledged += writers.stdout.readlines()
        names |= {line[:-1] for line in acknowledged if line.endswith("\n")}
        with make_index() as opened:
            found = opened.get(names)
            assert names <= found.keys()
            assert all(record.text_vector is not None for record in found.values())


def run_until_killed(script: str, *arguments: str) -> None:
    """Run a script that finds the modules of the tests, and check that it killed itself."""
    command = [sys.executable, "-c", script, *arguments]
    paths = os.pathsep.join(
        [str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]
    )
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert killed.returncode == -signal.SIGKILL


HALF_WRITER = """
import os, signal, sys
from tiny_filling import fill, open_index
uri, collection, folder, id = sys.argv[1:]
index = open_index(uri, collection)
images = index._images
images.upsert = images.delete = lambda rows: os.kill(os.getpid(), signal.SIGKILL)
index.delete([id]) if id else fill(folder, index)
"""


def test_a_writer_killed_between_caption_and_image_leaves_no_half_of_a_record(
    uri: str, fresh: str, tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
        (tmp_path / f"{name}.txt").write_text(f"a {name}")
    query = np.stack([direction(b"a cat"), direction(b"a dog")])
    dog = content_id(b"dog")

    try:
        run_until_killed(HALF_WRITER, uri, fresh, str(tmp_path), "")
        (tmp_path / "cat.jpg").unlink()
        with open_index(uri, fresh) as collection:
            assert collection.count() == 0
            assert collection.search(query, 5, on="text") == [[], []]
            fill(tmp_path, collection)
            check(tmp_path, collection)
            assert collection._texts.ids() == [dog]
        run_until_killed(HALF_WRITER, uri, fresh, str(tmp_path), dog)
        with open_index(uri, fresh) as collection:
            fill(tmp_path, collection)
            check(tmp_path, collection)
            assert [hit.id for hit in collection.search(query, 5, on="text")[1]] == [dog]
    finally:
        connection = Connection(uri, create=True)
        drop_collection(connection, fresh)
        connection.close()


CUT_OFF_FLUSH = """
import os, signal, sys
from milvus_lite.storage import wal
from tiny_filling import fill, open_index
index = open_index(*sys.argv[1:3])
wal.WAL.close_and_delete = lambda self: os.kill(os.getpid(), signal.SIGKILL)
fill(sys.argv[3], index)
"""


def test_a_flush_killed_before_its_log_is_deleted_leaves_no_record_twice(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    uri = str(tmp_path / "a.db")
    with open_index(uri, "pictures"):
        pass
    run_until_killed(CUT_OFF_FLUSH, uri, "pictures", str(tmp_path))
    with open_index(uri, "pictures") as collection:
        assert collection.count() == 1
        assert len(collection.search(direction(b"cat")[np.newaxis], 5)[0]) == 1
        check(tmp_path, collection)


def change(folder: Path, chance: random.Random, first: int) -> None:
    """Delete, add, change and copy images."""
    for n in range(24):
        path = folder / f"{n:02}.jpg"
        if chance.random() < 0.1:
            path.unlink(missing_ok=True)
        elif chance.random() < 0.4 or not path.exists():
            path.write_bytes(b"%d" % chance.randrange(first, first + 18))
        if chance.random() < 0.2:
            path.with_suffix(".txt").write_text(f"words {chance.randrange(1000)}")


def check(folder: Path, collection: Collection) -> None:
    """Check that each file belongs to the record of its bytes, with its own metadata."""
    files = {str(path): content_id(path.read_bytes()) for path in folder.glob("*.jpg")}
    assert fill(folder, collection) == IngestReport(unchanged=len(files))
    found = [record for batch in collection.read_through() for record in batch]
    claims = [(path, record.id) for record in found for path in record.origin.files]
    assert sorted(claims) == sorted(files.items())
    assert collection.count() == len(found) == len(set(files.values()))
    for record in found:
        image = Path(record.path).read_bytes()
        assert record.vector == pytest.approx(direction(image), abs=1e-5)
        words = Path(record.path).with_suffix(".txt")
        caption = words.read_text() if words.exists() else ""
        assert record.caption == caption
        if not caption:
            assert record.text_vector is None
        else:
            assert record.text_vector == pytest.approx(direction(caption.encode()), abs=1e-5)


@pytest.mark.timeout(1800)
def test_a_filling_killed_at_any_moment_leaves_nothing_missing_doubled_or_stale(
    uri: str, fresh: str, tmp_path: Path
) -> None:
    chance = random.Random(KILLS)
    folder = tmp_path / "pictures"
    folder.mkdir()
    change(folder, chance, 0)
    with open_index(uri, fresh) as collection:
        start = time.monotonic()
        fill(folder, collection)
        usual_s = time.monotonic() - start
    script = Path(__file__).parents[1] / "support" / "tiny_filling.py"
    command = [sys.executable, str(script), str(folder), uri, fresh]
    try:
        for number in range(1, KILLS + 1):
            change(folder, chance, 12 * number)
            with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
                assert killed.stdout is not None
                assert killed.stdout.readline() == b"open\n"
                try:
                    killed.wait(timeout=chance.uniform(0, usual_s))
                except subprocess.TimeoutExpired:
                    os.kill(killed.pid, signal.SIGKILL)
            with open_index(uri, fresh) as collection:
                fill(folder, collection)
                check(folder, collection)
    finally:
        connection = Connection(uri, create=True)
        drop_collection(connection, fresh)
        connection.close()
