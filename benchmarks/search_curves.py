"""Recall against latency by index type, for a sweep of search parameters.

    python benchmarks/search_curves.py --rows 100000
    python benchmarks/search_curves.py --rows 10000 --of lite

The vectors are drawn as those of `search_peers.py`, one query at a time. Each store is filled once;
`Collection.change_index` then builds one index after the other. A plot is written as SVG.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from options import run
from side_by_side import Figures, Rounds, emit, in_turn, own_seconds, table, write_report
from vector_stores import K, OnServer, Ours, Rows, cloud

from coca.search.index_params.vector_index import parse_index

DIM, QUERIES = 512, 60
EFS = [{"ef": ef} for ef in (10, 16, 32, 64, 128, 256, 512)]
NPROBES = [{"nprobe": nprobe} for nprobe in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
# Above K: a search requests a few more hits than it returns, and raises lower values.
REORDER = [{"nprobe": 128, "reorder_k": again} for again in (20, 40, 80, 160, 640)]
SWEEPS: dict[str, list[dict[str, int]]] = {
    "FLAT": [{}],
    "HNSW": EFS,
    "HNSW_SQ": EFS,
    "IVF_FLAT": NPROBES,
    "IVF_SQ8": NPROBES,
    "IVF_PQ": NPROBES,
    "SCANN": REORDER,
}
KINDS = {
    "faiss": ("FLAT", "IVF_FLAT", "HNSW"),
    "lite": ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "HNSW_SQ"),
    "server": ("FLAT", "IVF_FLAT", "IVF_SQ8", "IVF_PQ", "SCANN", "HNSW"),
}
NAMES = {"faiss": "plain faiss", "lite": "Milvus Lite 3.2.2", "server": "Milvus server 2.3.5"}

Search = Callable[[np.ndarray, dict[str, int]], list[int]]


def described(kind: str, rows: int) -> str:
    """Return the index description with its build parameters."""
    lists = round(4 * rows**0.5)
    if kind == "IVF_PQ":
        return f"IVF_PQ:nlist={lists},m={DIM // 8}"
    if kind == "SCANN":
        return f"SCANN:nlist={lists},with_raw_data=true"
    return f"{kind}:nlist={lists}" if kind.startswith("IVF") else kind


class Plain:
    """Plain faiss, one thread."""

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._faiss, self._vectors = faiss, vectors

    def build(self, kind: str) -> None:
        faiss, product = self._faiss, self._faiss.METRIC_INNER_PRODUCT
        if kind == "HNSW":
            self._index: Any = faiss.IndexHNSWFlat(DIM, 16, product)
            self._index.hnsw.efConstruction = 200
        elif kind == "IVF_FLAT":
            self._quantizer = faiss.IndexFlatIP(DIM)
            lists = round(4 * len(self._vectors) ** 0.5)
            self._index = faiss.IndexIVFFlat(self._quantizer, DIM, lists, product)
            self._index.train(self._vectors)
        else:
            self._index = faiss.IndexFlatIP(DIM)
        self._index.add(self._vectors)

    def search(self, query: np.ndarray, params: dict[str, int]) -> list[int]:
        if "ef" in params:
            self._index.hnsw.efSearch = params["ef"]
        if "nprobe" in params:
            self._index.nprobe = params["nprobe"]
        return self._index.search(query[np.newaxis], K)[1][0].tolist()


def points(search: Search, kind: str, queries: np.ndarray, exact: list[set[int]]) -> Figures:
    """Measure recall and latency for each search parameter of one index."""
    figures: Figures = {}
    for number, params in enumerate(SWEEPS[kind]):
        search(queries[0], params)
        start = own_seconds()
        found = [search(query, params) for query in queries]
        figures[f"{kind} {number} ms"] = 1e3 * (own_seconds() - start) / len(queries)
        right = sum(len(best & set(one)) for best, one in zip(exact, found, strict=True))
        figures[f"{kind} {number} recall"] = right / (K * len(queries))
    return figures


def of_milvus(
    store: Ours, name: str, rows: Rows, queries: np.ndarray, exact: list[set[int]]
) -> Figures:
    """Measure all index types of a collection."""
    store.fill(rows)
    figures: Figures = {}
    for kind in KINDS[name]:
        start = own_seconds()
        store.collection.change_index(parse_index(described(kind, len(rows))))
        store.settle(rows)
        figures[f"{kind} build_s"] = own_seconds() - start

        def search(query: np.ndarray, params: dict[str, int]) -> list[int]:
            return store.search(query[np.newaxis], None, params)[0]

        figures |= points(search, kind, queries, exact)
    store.close()
    return figures


QUICK = {"rows": 2_000, "of": "faiss,lite"}
UNITS = {"* build_s": "processor s", "* ms": "processor ms", "* recall": "recall@10"}


def contestant(arguments: argparse.Namespace) -> None:
    name = arguments.contestant
    vectors, queries = cloud(arguments.rows, 1, DIM), cloud(QUERIES, 2, DIM)
    exact = [set(row.tolist()) for row in np.argsort(-(queries @ vectors.T), axis=1)[:, :K]]
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="coca-curves-") as folder:
        if name == "faiss":
            plain = Plain(vectors)
            for kind in KINDS[name]:
                start = own_seconds()
                plain.build(kind)
                figures[f"{kind} build_s"] = own_seconds() - start
                figures |= points(plain.search, kind, queries, exact)
        else:
            rows = Rows(Path(folder, "vectors.npy"))
            np.save(rows.path, vectors)
            store = (Ours if name == "lite" else OnServer)(Path(folder), index="FLAT")
            figures = of_milvus(store, name, rows, queries, exact)
    emit(figures)


def referee(arguments: argparse.Namespace) -> Rounds:
    names = arguments.of.split(",")
    rounds = in_turn(
        {name: [f"--rows={arguments.rows}", f"--contestant={name}"] for name in names}, rounds=1
    )
    figures = {name: runs[0] for name, runs in rounds.items()}
    sections = [
        f"Each setting with {QUERIES} queries of {DIM} numbers, one at a time, one turn. Processor "
        "time, that of the server included, which other work on the machine does not change. "
        "Built: from the request for the index until searches use it, after opening again.",
        *(f"## {NAMES[name]}\n\n{rows_of(name, figures[name], arguments)}" for name in rounds),
        "Plotted in the SVG file of the same name.",
    ]
    path = write_report(
        arguments,
        rounds,
        f"search-curves_{arguments.rows // 1000}k",
        f"Recall against time, {arguments.rows:,} vectors",
        *sections,
        packages=["pymilvus", "milvus-lite", "faiss-cpu", "numpy"],
    )
    draw(path.with_suffix(".svg"), figures)
    return rounds


def rows_of(name: str, figures: Figures, arguments: argparse.Namespace) -> str:
    rows = []
    for kind in KINDS[name]:
        for spot, params in enumerate(SWEEPS[kind]):
            first = spot == 0
            rows.append(
                [
                    described(kind, arguments.rows).replace(":", ", ", 1) if first else "",
                    f"{figures[f'{kind} build_s']:.1f}" if first else "",
                    ", ".join(f"{name} {value}" for name, value in params.items()) or "exact",
                    f"{figures[f'{kind} {spot} recall']:.3f}",
                    f"{figures[f'{kind} {spot} ms']:.1f}",
                ]
            )
    return table(["index", "built, s", "searched with", f"recall@{K}", "ms a query"], rows)


def draw(path: Path, figures: dict[str, Figures]) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4 * len(figures), 4), layout="constrained")
    panels: Any = drawing.subplots(1, len(figures), sharex=True, squeeze=False)
    for panel, (name, own) in zip(panels[0], figures.items(), strict=True):
        for color, kind in enumerate(SWEEPS):
            if kind not in KINDS[name]:
                continue
            spots = range(len(SWEEPS[kind]))
            panel.plot(
                [own[f"{kind} {spot} recall"] for spot in spots],
                [own[f"{kind} {spot} ms"] for spot in spots],
                marker="o",
                markersize=4,
                label=kind,
                color=f"C{color}",
            )
        panel.set(title=NAMES[name], xlabel=f"recall@{K}", yscale="log")
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize="small")
    panels[0, 0].set_ylabel("processor ms a query")
    # Text stays text: a tenth of the size.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "search"}):
        drawing.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=10_000, help="vectors (default 10,000)")
    options.add_argument("--of", default=",".join(KINDS), help="stores")
    run(options, referee=referee, contestant=contestant, quick=QUICK, units=UNITS, rounds=1)
