"""Interface of a vector store in `search.py`, and its implementations by faiss and LanceDB."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DIM, K = 512, 10


class Store(Protocol):
    """A vector store under test."""

    def is_filled(self, rows: int) -> bool:
        """Return whether an earlier run has inserted the rows and built the index."""
        ...

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None: ...

    def build(self) -> None:
        """Build the index, and wait until searches use all of it."""
        ...

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        """Search the nearest rows among those whose rank is lower than `below`."""
        ...

    def extra_bytes(self) -> float:
        """Return the memory of other processes that belong to the store."""
        ...


class Faiss:
    """Plain faiss; a filter is a list of ids."""

    def __init__(self, folder: Path, hnsw: bool) -> None:
        import faiss

        # Its stubs lack some of its classes.
        self._faiss: Any = faiss
        self._index: Any
        self._hnsw = hnsw
        self._file, self._ranks_file = folder / "index.faiss", folder / "ranks.npy"
        self._faiss.omp_set_num_threads(1)
        if hnsw:
            self._index = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = 200
        else:
            self._index = faiss.IndexFlatIP(DIM)

    def is_filled(self, rows: int) -> bool:
        if not self._ranks_file.exists():
            return False
        self._index = self._faiss.read_index(str(self._file))
        self._ranks = np.load(self._ranks_file)
        return True

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None:
        self._faiss.omp_set_num_threads(os.cpu_count() or 1)
        self._index.add(vectors)
        self._faiss.omp_set_num_threads(1)
        self._ranks = ranks

    def build(self) -> None:
        self._faiss.write_index(self._index, str(self._file))
        np.save(self._ranks_file, self._ranks)

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
    """LanceDB in a folder, with the index that its documentation recommends for this size."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._db = lancedb.connect(str(folder))

    def is_filled(self, rows: int) -> bool:
        try:
            self._table = self._db.open_table("images")
        except ValueError:
            return False
        return bool(self._table.list_indices())

    def insert(self, vectors: np.ndarray, ranks: np.ndarray) -> None:
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
        rows = pa.array(np.arange(len(vectors)))
        data = pa.table({"row": rows, "rank": pa.array(ranks), "vector": column})
        self._table = self._db.create_table("images", data)

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
