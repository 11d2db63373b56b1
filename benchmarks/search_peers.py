"""Vector search on your own vectors: our searches against libraries and stores of the field.

    coca embed photos --out photos.npy
    python benchmarks/search_peers.py --vectors photos.npy
    python benchmarks/search_peers.py --rows 1000000 --only sqlite,faiss-sq8 --rounds 1

`--vectors` reads what `coca embed` writes, and vectors files: .npy, .parquet, .jsonl or .csv.
Without it, vectors are drawn that resemble those of a model: 2,000 clusters on a 64-d surface, with
noise in all dimensions. Queries are vectors that are held out, or those of `--queries`.

Each store is built in one process, and opened and searched in another, so that its memory is its
own. Single queries use one thread on one core, batches all cores. A filter keeps random rows by a
number. Recall is against exact search in float32. `make milvus` installs the server.
"""

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from options import run
from side_by_side import (
    Figures,
    Rounds,
    disk_mb,
    emit,
    figure,
    in_turn,
    own_seconds,
    peak_bytes,
    resident_mb,
    table,
    write_report,
)
from vector_stores import (
    Faiss,
    HNSWLib,
    InMilvusLite,
    K,
    Lance,
    NumPy,
    OnServer,
    Ours,
    Rows,
    SQLiteVec,
    Store,
    USearch,
    USearchExact,
    cloud,
    limited_threads,
)

BATCH = 64
FEWEST, LIMIT_S = 10, 5.0
"""Slow stores answer fewer queries: these at least, and no more after so many seconds."""
SHARES = (1.0, 0.1, 0.01, 0.001)
"""Fractions of the rows that a filter keeps."""
STORES: dict[str, tuple[str, Callable[[Path], Store]]] = {
    "sqlite": ("`SqliteCollection`, exact", Ours),
    "lite": ("`MilvusCollection`, Milvus Lite", InMilvusLite),
    "server": ("`MilvusCollection`, Milvus server 2.3.5", OnServer),
    "numpy": ("NumPy, exact", NumPy),
    "faiss-flat": ("faiss Flat, exact", partial(Faiss, kind="flat")),
    "faiss-sq8": ("faiss SQ8", partial(Faiss, kind="sq8")),
    "faiss-hnsw": ("faiss HNSW 16/200, ef 64", partial(Faiss, kind="hnsw")),
    "usearch-exact": ("usearch exact, int8", USearchExact),
    "usearch-hnsw": ("usearch HNSW", USearch),
    "hnswlib": ("hnswlib 16/200, ef 64", HNSWLib),
    "lancedb": ("LanceDB IVF_HNSW_SQ, ef 64", Lance),
    "sqlite-vec": ("sqlite-vec, exact", SQLiteVec),
}
"""Title and constructor of each store."""
ABOUT = """{rows:,} vectors of {dim} numbers, {source}; {queries} queries, or fewer where
they take more than {limit:.0f} s. One query at a time, one
thread: processor time, wall-clock time (p50 of the queries) and recall@{k}; then {batch} queries at
once on all cores. Medians of {rounds} rounds, with their range."""
COSTS_ABOUT = """Build: processor time of all threads until the store is saved. Memory is what is
added to Python and the imported library: at most during the build, and after the queries, in
another process; it includes memory-mapped files. Update: processor time until a search finds a
replaced row; libraries replace it in memory only."""

QUICK = {"rows": 2_000, "rounds": 1}
UNITS = {
    "build_s": "processor s",
    "recall_*": "recall@10",
    "processor_ms_*": "processor ms",
    "p50_ms_*": "ms",
    "batch_qps": "queries/s",
    "*_mb": "MB",
    "open_ms": "ms",
    "update_ms": "processor ms",
}


def read_vectors(path: Path) -> np.ndarray:
    """Read the vectors of a file, at length 1."""
    match path.suffix.lower():
        case ".npy":
            vectors = np.load(path)
        case ".parquet":
            from pyarrow import parquet

            column = parquet.read_table(path, columns=["vector"])["vector"].combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(column), -1)
        case ".jsonl":
            with path.open(encoding="utf-8") as lines:
                vectors = np.array([json.loads(line)["vector"] for line in lines])
        case ".csv":
            with path.open(encoding="utf-8", newline="") as lines:
                header, *rows = csv.reader(lines)
            at = [place for place, name in enumerate(header) if name.startswith("vector_")]
            vectors = np.array([[float(row[place]) for place in at] for row in rows])
        case suffix:
            raise SystemExit(
                f"{path} ends in {suffix!r}; vectors are in .npy, .parquet, .jsonl or .csv"
            )
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if vectors.ndim != 2 or not np.all(lengths > 0):
        raise SystemExit(f"{path} has vectors of length 0, or none")
    return vectors / lengths


def prepared(arguments: argparse.Namespace, folder: Path) -> tuple[Rows, int, str]:
    """Write vectors, queries and the exact scores of the K-th hits.

    Returns:
        The vectors, the number of queries, and a description of the source.
    """
    random = np.random.default_rng(0)
    if arguments.vectors:
        path = Path(arguments.vectors)
        vectors, source = read_vectors(path), f"of `{path.name}`"
        vectors = vectors[random.permutation(len(vectors))]
    else:
        wanted = (arguments.rows or 100_000) + arguments.count
        vectors, source = cloud(wanted, 1, arguments.dim), "drawn"
    if arguments.queries:
        queries = read_vectors(Path(arguments.queries))
        queries = queries[random.permutation(len(queries))[: arguments.count]]
    else:
        count = min(arguments.count, len(vectors) // 10)
        queries, vectors = vectors[:count], vectors[count:]
    vectors = vectors[: arguments.rows or len(vectors)]
    if len(vectors) < 10 * K or not len(queries) or queries.shape[1] != vectors.shape[1]:
        raise SystemExit(
            f"at least {10 * K} vectors and 1 query of one dimension are needed, got "
            f"{vectors.shape} and {queries.shape}"
        )
    np.save(folder / "vectors.npy", vectors)
    rows = Rows(folder / "vectors.npy")
    lowest = np.full((len(SHARES), len(queries)), -np.inf, np.float32)
    for number, query in enumerate(queries):
        scores = vectors @ query
        for place, share in enumerate(SHARES):
            some = scores[rows.numbers < below(share, len(rows))]
            if len(some) > K:
                lowest[place, number] = np.partition(some, -K)[-K]
    np.savez(folder / "queries.npz", queries=queries, lowest=lowest)
    return rows, len(queries), source


def below(share: float, rows: int) -> int:
    """Return the number below which a fraction of the rows is."""
    return max(int(share * rows), 1)


def build(name: str, rows: Rows, folder: Path) -> Figures:
    """Build a store, and measure time, memory and disk space."""
    store = STORES[name][1](folder)
    before, start = resident_mb(), own_seconds()
    store.build(rows)
    spent = own_seconds() - start
    peak = peak_bytes() / 1e6 - before
    if isinstance(store, OnServer):
        peak += store.peak_mb
    return {"build_s": spent, "peak_mb": peak, "disk_mb": disk_mb(folder)}


def search(name: str, rows: Rows, folder: Path) -> Figures:
    """Open a store, and measure its searches, its memory and an update."""
    with np.load(rows.path.parent / "queries.npz") as arrays:
        queries, lowest = arrays["queries"], arrays["lowest"]
    store = STORES[name][1](folder)
    rows.numbers  # noqa: B018  # computed before the memory is measured
    before, start = resident_mb(), time.perf_counter()
    store.open(rows)
    figures: Figures = {"open_ms": 1e3 * (time.perf_counter() - start)}
    clock = time.process_time if store.server is None else own_seconds
    # The first call of each kind warms up, and starts threads.
    store.search(queries[:1], None)
    found: dict[float, list[list[int]]] = {}
    for share in SHARES:
        limit = None if share == 1 else below(share, len(rows))
        seconds: list[float] = []
        hits: list[list[int]] = []
        try:
            with limited_threads(1):
                store.search(queries[:1], limit)
                before_s = clock()
                for query in queries:
                    if len(seconds) >= FEWEST and sum(seconds) > LIMIT_S:
                        break
                    start = time.perf_counter()
                    hits += store.search(query[np.newaxis], limit)
                    seconds.append(time.perf_counter() - start)
                spent = clock() - before_s
        except NotImplementedError:
            continue
        found[share] = hits
        figures[f"processor_ms_{share}"] = 1e3 * spent / len(hits)
        figures[f"p50_ms_{share}"] = 1e3 * statistics.median(seconds)
        if share == 1:
            batch = np.resize(queries, (BATCH, rows.dim))
            store.search(batch, None)
            start = time.perf_counter()
            store.search(batch, None)
            figures["batch_qps"] = BATCH / (time.perf_counter() - start)
            resident = resident_mb() - before
            if store.server is not None:
                resident += resident_mb(store.server)
            figures["resident_mb"] = resident
    figures |= recall(rows, queries, lowest, found)
    with suppress(NotImplementedError):
        figures |= update(store, rows, clock)
    store.close()
    return figures


def recall(
    rows: Rows, queries: np.ndarray, lowest: np.ndarray, found: dict[float, list[list[int]]]
) -> Figures:
    """Compute recall@K; of equal vectors each counts."""
    vectors, figures = rows.vectors, {}
    for place, share in enumerate(SHARES):
        if share not in found:
            continue
        limit, right = below(share, len(rows)), 0
        for query, least, hits in zip(queries, lowest[place], found[share], strict=False):
            there = np.array(sorted(set(hits)), np.int64)
            there = there[rows.numbers[there] < limit]
            right += int(np.count_nonzero(vectors[there] @ query >= least - 1e-6))
        figures[f"recall_{share}"] = right / (len(found[share]) * min(K, limit))
    return figures


def update(store: Store, rows: Rows, clock: Callable[[], float]) -> Figures:
    """Measure the median time until a search finds a row that was replaced."""
    spent = []
    for row, vector in enumerate(cloud(3, 5, rows.dim)):
        start = clock()
        store.replace(row, vector)
        hits = store.search(vector[np.newaxis], None)[0]
        spent.append(1e3 * (clock() - start))
        if row not in hits:
            raise SystemExit(f"a search does not find row {row}, which was replaced")
    return {"update_ms": statistics.median(spent)}


def contestant(arguments: argparse.Namespace) -> None:
    name, rows = arguments.contestant, Rows(Path(arguments.vectors))
    if arguments.build_in:
        emit(build(name, rows, Path(arguments.build_in)))
        return
    with tempfile.TemporaryDirectory(prefix="coca-peers-", dir=rows.path.parent) as folder:
        shared = [f"--vectors={rows.path}", f"--contestant={name}"]
        step = f"build of {name}"
        (built,) = in_turn({step: [*shared, f"--build-in={folder}"]}, rounds=1)[step]
        emit(built | search(name, rows, Path(folder)))


def referee(arguments: argparse.Namespace) -> Rounds:
    names = arguments.only.split(",") if arguments.only else list(STORES)
    if unknown := set(names) - set(STORES):
        raise SystemExit(f"unknown stores {sorted(unknown)}; there are {', '.join(STORES)}")
    Path(arguments.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="coca-peers-", dir=arguments.work) as folder:
        rows, queries, source = prepared(arguments, Path(folder))
        size, dim = len(rows), rows.dim
        rounds = in_turn(
            {name: [f"--vectors={rows.path}", f"--contestant={name}"] for name in names},
            rounds=arguments.rounds,
        )

    def shown(name: str, what: str, digits: int) -> str:
        runs = rounds[name]
        if what not in runs[0]:
            return "no"
        spread = figure(runs, what)
        return spread.shown(digits) if len(runs) > 1 else f"{spread.median:.{digits}f}"

    def section(columns: dict[str, tuple[str, int]]) -> str:
        rows = [
            [STORES[name][0], *(shown(name, what, digits) for what, digits in columns.values())]
            for name in rounds
        ]
        return table(["store", *columns], rows)

    heads = {share: f"{100 * share:g} %" for share in SHARES[1:]}
    write_report(
        arguments,
        rounds,
        f"search-peers_{size // 1000}k-{dim}",
        f"Vector stores: {size:,} vectors of {dim} numbers",
        ABOUT.format(
            rows=size,
            dim=dim,
            source=source,
            queries=queries,
            limit=LIMIT_S,
            k=K,
            batch=BATCH,
            rounds=arguments.rounds,
        ),
        section(
            {
                "processor ms": ("processor_ms_1.0", 2),
                "wall ms, p50": ("p50_ms_1.0", 2),
                f"recall@{K}": ("recall_1.0", 3),
                "batch, queries/s": ("batch_qps", 0),
            }
        ),
        "## Filters\n\nProcessor time of a query where a filter keeps a fraction of the rows, ms.",
        section({head: (f"processor_ms_{share}", 2) for share, head in heads.items()}),
        f"Recall@{K} of the same:",
        section({head: (f"recall_{share}", 3) for share, head in heads.items()}),
        f"## Costs\n\n{COSTS_ABOUT}",
        section(
            {
                "build, s": ("build_s", 1),
                "peak, MB": ("peak_mb", 0),
                "disk, MB": ("disk_mb", 0),
                "open, ms": ("open_ms", 0),
                "resident, MB": ("resident_mb", 0),
                "update, ms": ("update_ms", 1),
            }
        ),
        packages=[
            *("numpy", "numkong", "pymilvus", "milvus-lite", "faiss-cpu", "usearch", "hnswlib"),
            *("lancedb", "sqlite-vec"),
        ],
    )
    return rounds


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--vectors", default="", help="file of `coca embed`; default: drawn")
    options.add_argument("--queries", default="", help="file of query vectors; default: held out")
    options.add_argument("--rows", type=int, help="vectors at most (default all, or 100,000 drawn)")
    options.add_argument("--dim", type=int, default=256, help="numbers of drawn vectors (256)")
    options.add_argument("--count", type=int, default=100, help="queries at most (default 100)")
    options.add_argument("--only", default="", help="some of: " + ", ".join(STORES))
    options.add_argument("--work", default=tempfile.gettempdir(), help="folder of the stores")
    options.add_argument("--build-in", help=argparse.SUPPRESS)
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS)
