"""Search of 512-d vectors with and without filters: our collections, plain faiss and LanceDB.

    python benchmarks/search.py --rows 100000
    python benchmarks/search.py --rows 10000 --rounds 3
    python benchmarks/search.py --rows 1000000 --only lite --index IVF_SQ8:nlist=4096

The vectors resemble those of a model: 2,000 clusters on a 64-d surface, with noise in all
dimensions. A filter keeps a random fraction of them by a numeric column. Recall is against exact
search. Each contestant builds its own store in its own process, and is searched after its index is
built. `resident` searches the collection of `lite` from memory. `make milvus` installs the server.
`search_curves.py` sweeps the search parameters of each index type.

The cost of inserting is in processor seconds, which other work on the machine does not change.
With `--store FOLDER` the filled stores stay there, and later rounds and runs reuse them. `--words`
adds the end-to-end latency of text queries.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from options import run
from search_peers import DIM, Faiss, K, Lance, Store
from side_by_side import (
    Figures,
    Rounds,
    Unavailable,
    emit,
    figure,
    in_turn,
    own_seconds,
    peak_bytes,
    table,
    write_report,
)

from coca.search.index_params.vector_index import parse_index
from coca.search.milvus.collection import Collection
from coca.search.milvus.schema import CollectionSettings
from coca.search.query.collection_copy import CollectionCopy
from coca.search.records import Record

QUERIES, BATCH = 60, 64
SHARES = (1.0, 0.1, 0.01, 0.001)
COSTS = {"insert_s": 0, "ready_s": 0, "batch_qps": 0, "memory_mb": 0, "disk_mb": 0}
ABOUT = """Vectors of {dim} numbers, {queries} queries one by one and {batch} at once; our
collections with {index}. Processor seconds until all is inserted, and until the index is built and
opened. Memory: the most of all processes, of which the vectors that are inserted take 2 KB each."""
FACES = {
    "faiss-flat": ["faiss-flat"],
    "faiss-hnsw": ["faiss-hnsw"],
    "lancedb": ["lancedb"],
    "lite": ["lite", "resident"],
    "server": ["server"],
}
"""What each contestant is measured as."""
NAMES = {
    "faiss-flat": "faiss Flat",
    "faiss-hnsw": "faiss HNSW 16/200, ef 64",
    "lancedb": "LanceDB IVF_HNSW_SQ, ef 64",
    "lite": "`Collection`, Milvus Lite 3.2.2",
    "resident": "`CollectionCopy` over Lite",
    "server": "`Collection`, Milvus server 2.3.5",
}


def cloud(rows: int, seed: int) -> np.ndarray:
    shape = np.random.default_rng(0)
    surface = shape.standard_normal((64, DIM), dtype=np.float32)
    centers = shape.standard_normal((2_000, 64), dtype=np.float32)
    rng = np.random.default_rng(seed)
    low = centers[rng.integers(2_000, size=rows)]
    low = low + 0.6 * rng.standard_normal((rows, 64), dtype=np.float32)
    vectors = low @ surface + 0.8 * rng.standard_normal((rows, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Ours:
    """A collection of this package; the column `width` has the rank."""

    def __init__(self, uri: str, *, index: str = "HNSW", server: Any = None) -> None:
        self._open = partial(Collection.open, uri, "bench", embed_dim=DIM, fingerprint="bench")
        settings = CollectionSettings(index=parse_index(index))
        self.index = self._open(create=True, settings=settings)
        self._server = server
        self._search: Any = self.index

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None:
        self._rows = len(vectors)
        self.index.upsert(
            Record(id=f"{row:08}", path=f"{row}.jpg", width=int(ranks[row]), vector=vector)
            for row, vector in enumerate(vectors)
        )

    def build(self) -> None:
        self.index.flush()
        if self._server is not None:
            self.wait_for_index()
        # Lite builds its index in the background until the collection is closed. A client that
        # did not write need not wait for the writes.
        self.index.close()
        self.index = self._search = self._open()

    def wait_for_index(self) -> None:
        """Wait until the server uses its index; until then it searches a temporary index."""
        client, deadline = self.index._connection.client, time.monotonic() + 1_800
        while time.monotonic() < deadline:
            parts = client.list_loaded_segments("bench")
            # FLAT has none to be loaded.
            built = self.index.index_type.type == "FLAT" or all(part.index_name for part in parts)
            if built and self._rows <= sum(part.num_rows for part in parts):
                return
            time.sleep(0.2)
        raise SystemExit("the server did not build its index in half an hour")

    def is_filled(self, rows: int) -> bool:
        """Return whether an earlier run has inserted the rows."""
        self._rows = rows
        return self.index.count() == rows

    def keep_in_memory(self) -> None:
        """Search from memory from now on."""
        if not isinstance(self._search, CollectionCopy):
            self._search = self.resident = CollectionCopy(self.index)

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        filter = "" if below is None else f"width < {below}"
        answers = self._search.search(queries, K, filter=filter)
        return [[int(hit.id) for hit in hits] for hits in answers]

    def extra_bytes(self) -> float:
        if self._server is None:
            return 0.0
        status = Path(f"/proc/{self._server._process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return float(peak.split()[1]) * 1024


def measure(store: Store, rows: int, folder: Path, faces: Sequence[str], *, words: bool) -> Figures:
    vectors, queries = cloud(rows, 1), cloud(QUERIES + BATCH, 2)
    ranks = np.random.default_rng(3).permutation(rows)
    costs = filled(store, vectors, ranks, folder)
    figures = costs | asked(store, vectors, ranks, queries)
    named = {f"{faces[0]} {what}": value for what, value in figures.items()}
    if "resident" in faces and isinstance(store, Ours):
        start = own_seconds()
        store.keep_in_memory()
        figures |= {"ready_s": figures["ready_s"] + own_seconds() - start}
        figures |= asked(store, vectors, ranks, queries)
        named |= {f"resident {what}": value for what, value in figures.items()}
    if words and isinstance(store, Ours):
        from full_text_search import timed

        store.keep_in_memory()
        taken = timed(store.index, store.resident)
        named |= {f"{faces[0]} words {what}": value for what, value in taken.items()}
    return named


def filled(store: Store, vectors: np.ndarray, ranks: np.ndarray, folder: Path) -> Figures:
    """Fill a store, unless an earlier run has, and return the cost."""
    costs_file = folder / "filled.json"
    if costs_file.exists() and store.is_filled(len(vectors)):
        if isinstance(store, Ours):
            store.build()
        return json.loads(costs_file.read_text())
    start = own_seconds()
    store.insert(vectors, ranks)
    inserted = own_seconds() - start
    store.build()
    costs = {
        "insert_s": inserted,
        "ready_s": own_seconds() - start,
        "memory_mb": (peak_bytes() + store.extra_bytes()) / 1e6,
        "disk_mb": disk_mb(folder),
    }
    costs_file.write_text(json.dumps(costs))
    return costs


def asked(
    store: Store, vectors: np.ndarray, ranks: np.ndarray, queries: np.ndarray
) -> dict[str, float]:
    """Measure recall and latency with each filter, and the throughput of a batch of queries."""
    figures: dict[str, float] = {}
    for share in SHARES:
        below = None if share == 1 else max(int(share * len(vectors)), 1)
        kept = np.flatnonzero(ranks < below) if below else np.arange(len(vectors))
        among = vectors[kept] if below else vectors
        seconds, right = [], 0
        # The first call of each kind warms up.
        store.search(queries[-1:], below)
        for query in queries[:QUERIES]:
            start = time.perf_counter()
            found = store.search(query[np.newaxis], below)[0]
            seconds.append(time.perf_counter() - start)
            exact = kept[np.argsort(-(among @ query), kind="stable")[:K]]
            right += len(set(found) & set(exact.tolist()))
        figures[f"recall_{share}"] = right / (QUERIES * min(K, len(kept)))
        figures[f"p50_ms_{share}"] = 1e3 * statistics.median(seconds)
        figures[f"p95_ms_{share}"] = 1e3 * sorted(seconds)[int(0.95 * len(seconds))]
    start = time.perf_counter()
    store.search(queries[QUERIES:], None)
    figures["batch_qps"] = BATCH / (time.perf_counter() - start)
    return figures


def disk_mb(folder: Path) -> float:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files) / 1e6


@contextmanager
def milvus_server(folder: Path) -> Iterator[Any]:
    """Start a Milvus server with its data in a folder."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    try:
        from milvus_server import MilvusServer, why_not
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{error.name}, which the server of the tests needs, is missing"
        ) from error

    if reason := why_not():
        raise Unavailable(reason)
    # The next server in the same folder waits for so long for a server that was killed.
    with MilvusServer(folder, stall_s=30) as server:
        yield server


QUICK = {"rows": 2_000, "only": "faiss-flat,faiss-hnsw,lancedb,lite,resident", "rounds": 1}
UNITS = {
    "* ready_s": "processor s",
    "* recall_*": "recall@10",
    "* p50_ms_*": "ms",
    "* batch_qps": "queries/s",
    "* memory_mb": "MB",
    "* words * p50": "ms",
}


def contestant(arguments: argparse.Namespace) -> None:
    name, rows = arguments.contestant, arguments.rows
    faces = [face for face in FACES[name] if face in wanted(arguments)]
    with kept_folder(arguments.store, name, rows) as folder:
        if name == "server":
            with milvus_server(folder) as server:
                served = Ours(server.uri, index=arguments.index, server=server)
                emit(measure(served, rows, folder, faces, words=arguments.words))
        else:
            store = alone(name, folder, arguments.index)
            emit(measure(store, rows, folder, faces, words=arguments.words))


@contextmanager
def kept_folder(store: str, name: str, rows: int) -> Iterator[Path]:
    """Yield the folder of a store: a permanent folder if named, else a temporary one."""
    if store:
        folder = Path(store) / f"{name}-{rows}"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="coca-search-") as passing:
            yield Path(passing)


def alone(name: str, folder: Path, index: str) -> Store:
    """Open a store that needs no server."""
    if name.startswith("faiss"):
        return Faiss(folder, hnsw=name == "faiss-hnsw")
    return Lance(folder) if name == "lancedb" else Ours(str(folder / "bench.db"), index=index)


def wanted(arguments: argparse.Namespace) -> list[str]:
    return arguments.only.split(",") if arguments.only else list(NAMES)


def referee(arguments: argparse.Namespace) -> Rounds:
    faces = wanted(arguments)
    names = [name for name in FACES if set(FACES[name]) & set(faces)]
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("rows", "only", "index", "store")]
    shared += ["--words"] if arguments.words else []
    rounds = in_turn(
        {name: [*shared, f"--contestant={name}"] for name in names}, rounds=arguments.rounds
    )
    of = {face: rounds[name] for name in rounds for face in FACES[name] if face in faces}

    def one(face: str, what: str, digits: int = 1) -> str:
        spread = figure(of[face], f"{face} {what}")
        return spread.shown(digits) if arguments.rounds > 1 else f"{spread.median:.{digits}f}"

    costs = table(
        ["store", "inserted, s", "ready, s", "batch, queries/s", "memory, MB", "disk, MB"],
        [
            [NAMES[face], *(one(face, what, digits) for what, digits in COSTS.items())]
            for face in of
        ],
    )
    heads = ["all" if share == 1 else f"{100 * share:g} %" for share in SHARES]
    sections = [ABOUT.format(index=arguments.index, dim=DIM, queries=QUERIES, batch=BATCH), costs]
    for title, what, digits in (
        (f"Recall@{K} where a filter keeps", "recall", 3),
        ("Time of a query, p50 in ms", "p50_ms", 1),
        ("Time of a query, p95 in ms", "p95_ms", 1),
    ):
        rows = [
            [NAMES[face], *(one(face, f"{what}_{share}", digits) for share in SHARES)]
            for face in of
        ]
        sections.append(f"## {title}\n\n{table(['store', *heads], rows)}")
    if arguments.words:
        from full_text_search import section

        both = [face for face in ("lite", "server") if face in of]
        sections += [section(NAMES[face], partial(one, face)) for face in both]
    if arguments.note:
        sections.append(arguments.note)
    write_report(
        arguments,
        rounds,
        f"search_{arguments.rows // 1000}k{arguments.theme and f'-{arguments.theme}'}",
        f"Searching {arguments.rows:,} vectors",
        *sections,
        packages=["pymilvus", "milvus-lite", "faiss-cpu", "lancedb", "numpy"],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=10_000, help="vectors (default 10,000)")
    options.add_argument("--only", default="", help="some of: " + ", ".join(NAMES))
    options.add_argument("--index", default="HNSW", help="index of our collections (default HNSW)")
    options.add_argument("--theme", default="", help="more of the report's name")
    options.add_argument("--note", default="", help="last paragraph of the report")
    options.add_argument("--store", default="", help="folder that keeps the filled stores")
    options.add_argument("--words", action="store_true", help="measure text queries as well")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
