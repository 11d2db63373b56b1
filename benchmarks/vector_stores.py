"""Vector stores behind one interface: our collections and searches, and libraries of the field.

A store is built and saved in one process, and opened and searched in another. Each row has an
integer, `number`, by which searches are filtered. Libraries without fields filter by a mask.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from side_by_side import Unavailable, resident_mb

from coca.search.milvus.collection import MilvusCollection
from coca.search.records import Record
from coca.search.search_options import SearchOptions
from coca.search.stores import open_store

K = 10
_BLOCK_ROWS = 10_000


def cloud(rows: int, seed: int, dim: int) -> np.ndarray:
    """Draw vectors of 2,000 clusters on a 64-d surface, with noise in all dimensions."""
    shape = np.random.default_rng(0)
    surface = shape.standard_normal((64, dim), dtype=np.float32)
    centers = shape.standard_normal((2_000, 64), dtype=np.float32)
    rng = np.random.default_rng(seed)
    low = centers[rng.integers(2_000, size=rows)]
    low = low + 0.6 * rng.standard_normal((rows, 64), dtype=np.float32)
    vectors = low @ surface + 0.8 * rng.standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Rows:
    """Vectors of a .npy file, with a number each."""

    path: Path

    @property
    def vectors(self) -> np.ndarray:
        """Memory-mapped vectors."""
        return np.load(self.path, mmap_mode="r")

    @cached_property
    def numbers(self) -> np.ndarray:
        """Numbers from 0 on in random order, so that `number < n` keeps n random rows."""
        return np.random.default_rng(3).permutation(len(self))

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.vectors.shape[1]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield blocks of rows; the file is mapped again for each, so that none stays resident."""
        for start in range(0, len(self), _BLOCK_ROWS):
            part = slice(start, min(start + _BLOCK_ROWS, len(self)))
            yield part, np.array(self.vectors[part])


class Store(Protocol):
    """A vector store under test, in a folder of its own."""

    def build(self, rows: Rows) -> None:
        """Insert all rows, build the index and save both."""
        ...

    def open(self, rows: Rows) -> None:
        """Open what `build` saved."""
        ...

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        """Find the nearest rows, among those whose number is lower than `below`.

        Raises:
            NotImplementedError: The library has no filters.
        """
        ...

    def replace(self, row: int, vector: np.ndarray) -> None:
        """Replace the vector of a row.

        Raises:
            NotImplementedError: The library cannot replace a row.
        """
        ...

    @property
    def server(self) -> int | None:
        """Process id of the store's server; None if it runs in this process."""
        ...

    def close(self) -> None: ...


class Library:
    """Library that has vectors and no fields."""

    server: int | None = None

    def __init__(self, folder: Path) -> None:
        self.file = folder / "index"

    def open(self, rows: Rows) -> None:
        self.numbers = rows.numbers

    def close(self) -> None: ...


def thread_count() -> int:
    """Return the number of threads that a search may use; see `limited_threads`."""
    return len(os.sched_getaffinity(0))


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Limit this process and its libraries to some threads, and to as many cores."""
    from threadpoolctl import threadpool_limits

    before = os.sched_getaffinity(0)
    with threadpool_limits(count):
        try:
            _pin(sorted(before)[:count])
            yield
        finally:
            _pin(sorted(before))


def _pin(cores: Sequence[int]) -> None:
    # The threads of a pool have started before.
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


class NumPy(Library):
    """All scores by one matrix product."""

    def build(self, rows: Rows) -> None:
        with self.file.open("wb") as file:
            np.save(file, rows.vectors)

    def open(self, rows: Rows) -> None:
        super().open(rows)
        self.matrix = np.load(self.file)

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        scores = queries @ self.matrix.T
        if below is not None:
            scores[:, self.numbers >= below] = -np.inf
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
        return best.tolist()

    def replace(self, row: int, vector: np.ndarray) -> None:
        self.matrix[row] = vector


class Faiss(Library):
    """Plain faiss; a filter is a bitmap."""

    def __init__(self, folder: Path, kind: str) -> None:
        import faiss

        super().__init__(folder)
        # Its stubs lack some of its classes.
        self.faiss: Any = faiss
        self.index: Any
        self.kind = kind

    def build(self, rows: Rows) -> None:
        faiss, dim, product = self.faiss, rows.dim, self.faiss.METRIC_INNER_PRODUCT
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, 16, product)
            index.hnsw.efConstruction = 200
        elif self.kind == "sq8":
            index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, product)
            some = np.random.default_rng(0).permutation(len(rows))[:_BLOCK_ROWS]
            index.train(rows.vectors[np.sort(some)])
        else:
            index = faiss.IndexFlatIP(dim)
        if self.kind != "hnsw":
            # Rows of a graph cannot be removed.
            index = faiss.IndexIDMap2(index)
        for part, block in rows.blocks():
            if self.kind == "hnsw":
                index.add(block)
            else:
                index.add_with_ids(block, np.arange(part.start, part.stop))
        faiss.write_index(index, str(self.file))

    def open(self, rows: Rows) -> None:
        super().open(rows)
        self.index = self.faiss.read_index(str(self.file))

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        options: dict[str, Any] = {}
        if below is not None:
            bits = np.packbits(self.numbers < below, bitorder="little")
            options["sel"] = self.faiss.IDSelectorBitmap(bits)
        if self.kind == "hnsw":
            params = self.faiss.SearchParametersHNSW(efSearch=64, **options)
        else:
            params = self.faiss.SearchParameters(**options)
        found = self.index.search(queries, K, params=params)[1]
        return [[row for row in one if row >= 0] for one in found.tolist()]

    def replace(self, row: int, vector: np.ndarray) -> None:
        if self.kind == "hnsw":
            raise NotImplementedError
        self.index.remove_ids(np.array([row]))
        self.index.add_with_ids(vector[np.newaxis], np.array([row]))


class USearchExact(Library):
    """Exact search of usearch over int8 codes, each row with a scale of its own."""

    def __init__(self, folder: Path) -> None:
        import usearch.index

        super().__init__(folder)
        self.module = usearch.index

    @staticmethod
    def coded(vectors: np.ndarray) -> np.ndarray:
        scale = 127 / np.abs(vectors).max(axis=1, keepdims=True)
        return np.rint(vectors * scale).astype(np.int8)

    def build(self, rows: Rows) -> None:
        codes = np.empty((len(rows), rows.dim), np.int8)
        for part, block in rows.blocks():
            codes[part] = self.coded(block)
        with self.file.open("wb") as file:
            np.save(file, codes)

    def open(self, rows: Rows) -> None:
        super().open(rows)
        self.codes = np.load(self.file)

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        kept = None if below is None else np.flatnonzero(self.numbers < below)
        codes = self.codes if kept is None else self.codes[kept]
        found = self.module.search(
            codes,
            self.coded(queries),
            min(K, len(codes)),
            "cos",
            exact=True,
            threads=thread_count(),
        ).keys.astype(np.int64)
        return (found if kept is None else kept[found]).reshape(len(queries), -1).tolist()

    def replace(self, row: int, vector: np.ndarray) -> None:
        self.codes[row] = self.coded(vector[np.newaxis])[0]


class USearch(Library):
    """Graph of usearch with its defaults."""

    def __init__(self, folder: Path) -> None:
        from usearch.index import Index

        super().__init__(folder)
        self.new = Index

    def build(self, rows: Rows) -> None:
        index = self.new(ndim=rows.dim, metric="ip")
        for part, block in rows.blocks():
            index.add(np.arange(part.start, part.stop), block)
        index.save(str(self.file))

    def open(self, rows: Rows) -> None:
        super().open(rows)
        self.index = self.new.restore(str(self.file))

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        if below is not None:
            raise NotImplementedError
        found = self.index.search(queries, K, threads=thread_count())
        return found.keys.astype(np.int64).reshape(len(queries), -1).tolist()

    def replace(self, row: int, vector: np.ndarray) -> None:
        self.index.remove(row)
        self.index.add(row, vector)


class HNSWLib(Library):
    """Graph of hnswlib; a filter is a function of Python."""

    def __init__(self, folder: Path) -> None:
        import hnswlib

        super().__init__(folder)
        self.new = partial(hnswlib.Index, space="ip")

    def build(self, rows: Rows) -> None:
        index = self.new(dim=rows.dim)
        index.init_index(len(rows), M=16, ef_construction=200)
        for part, block in rows.blocks():
            index.add_items(block, np.arange(part.start, part.stop))
        index.save_index(str(self.file))

    def open(self, rows: Rows) -> None:
        super().open(rows)
        self.index = self.new(dim=rows.dim)
        self.index.load_index(str(self.file))
        self.index.set_ef(64)

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        kept = None if below is None else lambda row: self.numbers[row] < below
        try:
            return self.index.knn_query(queries, K, thread_count(), kept)[0].tolist()
        except RuntimeError:
            # It finds fewer rows, and then returns none.
            return [[]] * len(queries)

    def replace(self, row: int, vector: np.ndarray) -> None:
        self.index.add_items(vector[np.newaxis], [row])


class Lance(Library):
    """LanceDB in a folder, with the index that its documentation recommends for this size."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        super().__init__(folder)
        self.db = lancedb.connect(str(self.file))

    def table(self, start: int, vectors: np.ndarray, numbers: np.ndarray) -> Any:
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        rows = pa.array(np.arange(start, start + len(vectors)))
        return pa.table({"row": rows, "number": pa.array(numbers), "vector": column})

    def build(self, rows: Rows) -> None:
        from lancedb.index import HnswSq

        parts = (self.table(part.start, block, rows.numbers[part]) for part, block in rows.blocks())
        table = self.db.create_table("images", next(parts))
        for part in parts:
            table.add(part)
        config = HnswSq(distance_type="dot", num_partitions=1, m=16, ef_construction=200)
        table.create_index("vector", config=config)

    def open(self, rows: Rows) -> None:
        super().open(rows)
        self.images = self.db.open_table("images")

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        found = []
        for query in queries:
            asked = self.images.search(query).distance_type("dot").limit(K).ef(64)
            if below is not None:
                asked = asked.where(f"number < {below}", prefilter=True)
            found.append([row["row"] for row in asked.select(["row", "_distance"]).to_list()])
        return found

    def replace(self, row: int, vector: np.ndarray) -> None:
        new = self.table(row, vector[np.newaxis], self.numbers[row : row + 1])
        self.images.merge_insert("row").when_matched_update_all().execute(new)


class SQLiteVec(Library):
    """Exact search of sqlite-vec, by `apsw`, as the `sqlite3` of Python may load no extension."""

    def __init__(self, folder: Path) -> None:
        import apsw
        import sqlite_vec

        super().__init__(folder)
        self.database = apsw.Connection(str(self.file))
        self.database.enable_load_extension(True)
        sqlite_vec.load(self.database)

    def build(self, rows: Rows) -> None:
        vector = f"vector float[{rows.dim}] distance_metric=cosine"
        self.database.execute(f"create virtual table images using vec0({vector}, number integer)")
        insert = "insert into images(rowid, vector, number) values (?, ?, ?)"
        for part, block in rows.blocks():
            numbers = rows.numbers[part].tolist()
            with self.database:
                self.database.executemany(
                    insert,
                    zip(range(part.start, part.stop), map(bytes, block), numbers, strict=True),
                )

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        ask = f"select rowid from images where vector match ? and k = {K}"
        ask += "" if below is None else f" and number < {below}"
        return [
            [row for (row,) in self.database.execute(ask, (query.tobytes(),))] for query in queries
        ]

    def replace(self, row: int, vector: np.ndarray) -> None:
        ask = "update images set vector = ? where rowid = ?"
        self.database.execute(ask, (vector.tobytes(), row))


class Ours:
    """A collection of this package in a SQLite file; its field `width` has the number."""

    def __init__(self, folder: Path, *, uri: str = "") -> None:
        self.folder, self.uri = folder, uri or str(folder / "bench.db")
        self.server: int | None = None

    def build(self, rows: Rows) -> None:
        self.numbers = rows.numbers
        self.store = open_store(self.uri, create=True)
        self.collection = self.store.create("bench", embed_dim=rows.dim, fingerprint="bench")
        self.collection.upsert(
            self.record(part.start + number, vector)
            for part, block in rows.blocks()
            for number, vector in enumerate(block)
        )
        self.settle(rows)
        self.close()

    def record(self, row: int, vector: np.ndarray) -> Record:
        number = int(self.numbers[row])
        return Record(id=f"{row:08}", path=f"{row}.jpg", width=number, vector=vector)

    def settle(self, rows: Rows) -> None:
        """Wait until searches use the whole index."""
        self.collection.flush()

    def open(self, rows: Rows) -> None:
        self.numbers = rows.numbers
        self.store = open_store(self.uri)
        self.collection = self.store.open("bench")

    def search(self, queries: np.ndarray, below: int | None) -> list[list[int]]:
        filter = "" if below is None else f"width < {below}"
        answers = self.collection.nearest(queries, SearchOptions(limit=K, filter=filter))
        return [[int(hit.id) for hit in hits] for hits in answers]

    def replace(self, row: int, vector: np.ndarray) -> None:
        self.collection.upsert([self.record(row, vector)])

    def close(self) -> None:
        self.store.close()


class InMilvusLite(Ours):
    """A collection of this package in Milvus Lite, which builds its index when it is closed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, uri=f"milvus-lite:{folder / 'milvus.db'}")


class OnServer(Ours):
    """A collection of this package on a Milvus server that is started for it."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        server = self._stack.enter_context(milvus_server(folder))
        super().__init__(folder, uri=server.uri)
        self.server = server._process.pid
        self.peak_mb = 0.0  # of the server, once it is closed

    def settle(self, rows: Rows) -> None:
        assert isinstance(self.collection, MilvusCollection)
        client, deadline = self.collection._connection.client, time.monotonic() + 1_800
        # `Collection.flush` leaves a few thousand rows to the server, which indexes them later.
        client.flush("bench")
        while time.monotonic() < deadline:
            parts = client.list_loaded_segments("bench")
            # Until then the server searches a temporary index.
            built = all(part.index_name for part in parts)
            if built and len(rows) <= sum(part.num_rows for part in parts):
                return
            time.sleep(0.2)
        raise SystemExit("the server did not build its index in half an hour")

    def close(self) -> None:
        super().close()
        self.peak_mb = resident_mb(self.server or "self", peak=True)
        self._stack.close()


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
