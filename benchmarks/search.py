"""Searching 512-d vectors: our collections beside plain faiss and LanceDB, also behind filters.

    python benchmarks/search.py --rows 100000
    python benchmarks/search.py --rows 10000 --rounds 3
    python benchmarks/search.py --rows 100000 --only lite,resident

The vectors are shaped like a model's: 2,000 clusters on a 64-d surface, with noise in all numbers.
A filter keeps a random share of them by a column of numbers. Recall is against all products.
Each contestant builds its own store in a process of its own; the server is `make milvus`'s.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from side_by_side import emit, figure, in_turn, main, peak_bytes, table, write_report

from coca.search.milvus import Index
from coca.search.records import Record
from coca.search.resident import Resident

DIM, K, QUERIES, BATCH = 512, 10, 60, 64
SHARES = (1.0, 0.1, 0.01, 0.001)
NAMES = {
    "faiss-flat": "faiss Flat",
    "faiss-hnsw": "faiss HNSW 16/200, ef 64",
    "lancedb": "LanceDB IVF_HNSW_SQ",
    "lite": "Index on Milvus Lite",
    "resident": "Resident over Lite",
    "server": "Index on Milvus 2.3.5",
}


class Store(Protocol):
    """What a contestant offers."""

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None: ...

    def build(self) -> None: ...

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        """Rows of the nearest, among those whose rank is below a number."""
        ...

    def extra_bytes(self) -> float:
        """Memory of other processes that belong to it."""
        ...


def cloud(rows: int, seed: int) -> np.ndarray:
    shape = np.random.default_rng(0)
    surface = shape.standard_normal((64, DIM), dtype=np.float32)
    centers = shape.standard_normal((2_000, 64), dtype=np.float32)
    rng = np.random.default_rng(seed)
    low = centers[rng.integers(2_000, size=rows)]
    low = low + 0.6 * rng.standard_normal((rows, 64), dtype=np.float32)
    vectors = low @ surface + 0.8 * rng.standard_normal((rows, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Faiss:
    """faiss as it comes; a filter is a list of ids."""

    def __init__(self, hnsw: bool) -> None:
        import faiss

        self._faiss, self._hnsw = faiss, hnsw
        faiss.omp_set_num_threads(1)
        if hnsw:
            self._index = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = 200
        else:
            self._index = faiss.IndexFlatIP(DIM)

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None:
        self._vectors, self._ranks = vectors, ranks

    def build(self) -> None:
        self._index.add(self._vectors)

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        options: dict[str, Any] = {}
        if below is not None:
            kept = np.flatnonzero(self._ranks < below).astype(np.int64)
            options["sel"] = self._faiss.IDSelectorBatch(kept)
        if self._hnsw:
            params = self._faiss.SearchParametersHNSW(efSearch=64, **options)
        else:
            params = self._faiss.SearchParameters(**options)
        rows = self._index.search(queries, K, params=params)[1]
        return [[row for row in one if row >= 0] for one in rows.tolist()]

    def extra_bytes(self) -> float:
        return 0.0


class Lance:
    """LanceDB in a folder, with the index that its pages name first for this size."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._db = lancedb.connect(str(folder))

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None:
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        rows = pa.array(np.arange(len(vectors)))
        data = pa.table({"row": rows, "rank": pa.array(ranks), "vector": column})
        self._table = self._db.create_table("pictures", data)

    def build(self) -> None:
        from lancedb.index import HnswSq

        config = HnswSq(distance_type="dot", num_partitions=1, m=16, ef_construction=200)
        self._table.create_index("vector", config=config)

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        found = []
        for query in queries:
            asked = self._table.search(query).distance_type("dot").limit(K).ef(64)
            if below is not None:
                asked = asked.where(f"rank < {below}", prefilter=True)
            found.append([row["row"] for row in asked.select(["row", "_distance"]).to_list()])
        return found

    def extra_bytes(self) -> float:
        return 0.0


class Ours:
    """A collection of this package; the rank stands in `width`."""

    def __init__(self, uri: str, *, resident: bool = False, server: Any = None) -> None:
        self._index = Index.open(uri, "bench", embed_dim=DIM, fingerprint="bench", create=True)
        self._wanted, self._server = resident, server
        self._search: Any = self._index

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None:
        self._index.upsert(
            Record(id=f"{row:08}", path=f"{row}.jpg", width=int(ranks[row]), vector=vector)
            for row, vector in enumerate(vectors)
        )

    def build(self) -> None:
        self._index.flush()
        self._index.count()
        if self._wanted:
            self._search = Resident(self._index)

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


def measure(store: Store, rows: int, folder: Path) -> dict[str, float]:
    vectors, queries = cloud(rows, 1), cloud(QUERIES + BATCH, 2)
    ranks = np.random.default_rng(3).permutation(rows)
    figures: dict[str, float] = {}
    start = time.perf_counter()
    store.insert(vectors, ranks)
    figures["insert_s"] = time.perf_counter() - start
    store.build()
    figures["ready_s"] = time.perf_counter() - start
    _settle(store, queries)
    for share in SHARES:
        below = None if share == 1 else max(int(share * rows), 1)
        seconds, right = [], 0
        kept = np.flatnonzero(ranks < (below or rows))
        for query in queries[:QUERIES]:
            start = time.perf_counter()
            found = store.search(query[np.newaxis], below)[0]
            seconds.append(time.perf_counter() - start)
            exact = kept[np.argsort(-(vectors[kept] @ query), kind="stable")[:K]]
            right += len(set(found) & set(exact.tolist()))
        possible = QUERIES * min(K, len(kept))
        figures[f"recall_{share}"] = right / possible
        figures[f"p50_ms_{share}"] = 1e3 * statistics.median(seconds)
        figures[f"p95_ms_{share}"] = 1e3 * sorted(seconds)[int(0.95 * len(seconds))]
    start = time.perf_counter()
    store.search(queries[QUERIES:], None)
    figures["batch_qps"] = BATCH / (time.perf_counter() - start)
    figures["memory_mb"] = (peak_bytes() + store.extra_bytes()) / 1e6
    files = (file for file in folder.rglob("*") if file.is_file())
    figures["disk_mb"] = sum(file.stat().st_size for file in files) / 1e6
    return figures


def _settle(store: Store, queries: np.ndarray) -> None:
    """Ask until answers stop growing faster: a server builds its index in the background."""
    last = float("inf")
    for _ in range(60):
        start = time.perf_counter()
        store.search(queries[:20], None)
        took = time.perf_counter() - start
        if took > 0.8 * last:
            return
        last = took
        time.sleep(1)


def contestant(arguments: argparse.Namespace) -> None:
    name, rows = arguments.contestant, arguments.rows
    folder = Path(tempfile.mkdtemp(prefix="coca-search-", dir=arguments.work))
    try:
        if name.startswith("faiss"):
            figures = measure(Faiss(hnsw=name == "faiss-hnsw"), rows, folder)
        elif name == "lancedb":
            figures = measure(Lance(folder), rows, folder)
        elif name == "server":
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
            from milvus_server import MilvusServer

            with MilvusServer(folder) as server:
                figures = measure(Ours(server.uri, server=server), rows, folder)
        else:
            store = Ours(str(folder / "bench.db"), resident=name == "resident")
            figures = measure(store, rows, folder)
        emit(figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def referee(arguments: argparse.Namespace) -> None:
    names = arguments.only.split(",") if arguments.only else list(NAMES)
    calls = {
        name: ["--rows", str(arguments.rows), "--work", arguments.work, "--contestant", name]
        for name in names
    }
    rounds = in_turn(calls, rounds=arguments.rounds)

    def cells(shown: Callable[[str], Sequence[str]]) -> list[list[str]]:
        return [[NAMES[name], *shown(name)] for name in names]

    def one(name: str, what: str, digits: int = 1) -> str:
        return figure(rounds[name], what).shown(digits)

    costs = table(
        ["store", "inserted, rows/s", "ready, s", "batch, queries/s", "memory, MB", "disk, MB"],
        cells(
            lambda name: [
                f"{arguments.rows / figure(rounds[name], 'insert_s').median:,.0f}",
                one(name, "ready_s"),
                one(name, "batch_qps", 0),
                one(name, "memory_mb", 0),
                one(name, "disk_mb", 0),
            ]
        ),
    )
    heads = ["all" if share == 1 else f"{100 * share:g} %" for share in SHARES]
    sections = [f"## {arguments.rows:,} vectors of {DIM} numbers\n\n{costs}"]
    for title, what, digits in (
        (f"Recall@{K} where a filter keeps", "recall", 3),
        ("Time of a query, p50 in ms", "p50_ms", 1),
        ("Time of a query, p95 in ms", "p95_ms", 1),
    ):
        rows = cells(lambda name, w=what, d=digits: [one(name, f"{w}_{s}", d) for s in SHARES])
        sections.append(f"### {title}\n\n{table(['store', *heads], rows)}")
    write_report(
        f"search_{arguments.rows // 1000}k",
        f"Searching {arguments.rows:,} vectors",
        *sections,
        packages=["pymilvus", "milvus-lite", "faiss-cpu", "lancedb", "numpy"],
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=10_000, help="vectors (default 10,000)")
    options.add_argument("--only", default="", help="some of: " + ", ".join(NAMES))
    options.add_argument("--work", default=tempfile.gettempdir(), help="where stores are kept")
    main(options, contestant=contestant, referee=referee)
