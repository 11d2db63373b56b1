"""What `kill -9` may not do to a collection: both laws need real processes."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from coca.search.milvus import Index
from coca.search.records import content_id

WRITER = """
import sys, threading, numpy as np
from coca.search.milvus import Index
from coca.search.records import Record
index = Index.open(sys.argv[1])
def write(thread):
    for batch in range(1000):
        names = [f"{thread}-{batch}-{row}" for row in range(10)]
        index.upsert(Record(id=n, path=n, vector=np.eye(16, dtype=np.float32)[0]) for n in names)
        sys.stdout.write("".join(n + chr(10) for n in names)); sys.stdout.flush()
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
for thread in threads:
    thread.start()
# An interpreter that is about to end takes no more requests, not even for its other threads.
for thread in threads:
    thread.join()
"""


def test_no_acknowledged_row_of_eight_writers_is_lost_to_a_kill(tmp_path: Path) -> None:
    place = str(tmp_path / "pictures.db")
    Index.open(place, embed_dim=16, fingerprint="f", create=True).close()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, place], stdout=subprocess.PIPE, text=True
    ) as writers:
        assert writers.stdout is not None
        acknowledged = [writers.stdout.readline() for _ in range(600)]
        os.kill(writers.pid, signal.SIGKILL)
        acknowledged += writers.stdout.readlines()
    names = {line[:-1] for line in acknowledged if line.endswith("\n")}
    with Index.open(place) as index:
        assert names <= index.get(names).keys()


FILL = """
import sys, time, hashlib, numpy as np
from coca.search.ingest import ingest
from coca.search.milvus import Index
class Slow:
    fingerprint, embed_dim = "f", 16
    def embed_images(self, images):
        time.sleep(0.01)
        return np.eye(16, dtype=np.float32)[[image[0] % 16 for image in images]]
with Index.open(sys.argv[2], embed_dim=16, fingerprint="f", create=True) as index:
    print("open", flush=True)
    print(ingest(sys.argv[1], Slow(), index, batch_size=4, prune=True), flush=True)
"""


def test_a_run_killed_at_any_moment_leaves_nothing_missing_doubled_or_stale(
    tmp_path: Path,
) -> None:
    chance = random.Random(0)
    folder, place = tmp_path / "pictures", str(tmp_path / "pictures.db")
    folder.mkdir()
    command = [sys.executable, "-c", FILL, str(folder), place]
    for round in range(3):
        for n in range(80):
            path = folder / f"{n:02}.jpg"
            if chance.random() < 0.1:
                path.unlink(missing_ok=True)
            elif chance.random() < 0.4 or not path.exists():
                # Sometimes the same bytes at several paths.
                path.write_bytes(b"%d" % chance.randrange(round * 40, round * 40 + 60))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == b"open\n"
            try:
                killed.wait(timeout=chance.uniform(0, 0.4))
            except subprocess.TimeoutExpired:
                os.kill(killed.pid, signal.SIGKILL)
        subprocess.run(command, check=True, stdout=subprocess.PIPE)
        again = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        files = {str(path): content_id(path.read_bytes()) for path in folder.iterdir()}
        assert (
            f"added=0, updated=0, unchanged={len(files)}, duplicates=0, bad=[], removed=0" in again
        )
        with Index.open(place) as index:
            claims = [(path, id) for id, _, _, origin in index.origins() for path in origin.files]
            assert sorted(claims) == sorted(files.items())
            assert index.count() == len(set(files.values()))
