"""Searches while others write: what was acknowledged is there, and no answer is wrong.

Each writer has ids of its own and knows which writes were confirmed; each searcher checks its
results. At the end, and again after the collection was closed and
opened, it must contain exactly what was confirmed.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from coca.search.milvus.collection import Collection
from coca.search.records import Record, sort_key

BATCH = 20
"""Rows of a write: mostly new ones, some written again with other words, some removed."""


def vector_of(id: str, embed_dim: int) -> np.ndarray:
    """The vector of a record: whoever is given a hit can compute its score."""
    writer, number = map(int, id.split("-"))
    vector = np.random.default_rng([writer, number]).standard_normal(embed_dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@dataclass
class Load:
    """What happened, and what was found wrong."""

    written: int = 0
    removed: int = 0
    kept: int = 0
    """Records that must be there at the end."""
    search_s: list[tuple[float, float]] = field(default_factory=list)
    """Of each search, when it began and how long it took."""
    faults: list[str] = field(default_factory=list)
    """Sentences; empty if all went well."""


def run_load(
    open_index: Callable[[], Collection],
    *,
    seconds: float = 0.0,
    rows: int = 0,
    searches: int = 0,
    writers: int = 2,
    searchers: int = 2,
    write_pause_s: float = 0.5,
    search_pause_s: float = 0.2,
) -> Load:
    """Write and search through one index for some time, then compare all of it.

    Args:
        open_index: Opens the collection, which begins empty.
        seconds: How long, at least.
        rows: Number of rows to write, at least, however long it takes.
        searches: Number of searches, at least.
        writers: Threads that write.
        searchers: Threads that search.
        write_pause_s: Pause between two writes of a writer, in seconds.
        search_pause_s: Pause between two searches of a searcher, in seconds.
    """
    load, guard, begun = Load(), threading.Lock(), time.monotonic()
    there: dict[str, str] = {}

    def until_the_end(
        work: Callable[[np.random.Generator], None], seed: int, pause_s: float
    ) -> None:
        rng = np.random.default_rng(seed)
        while not load.faults and (
            time.monotonic() < begun + seconds
            or load.written < rows
            or len(load.search_s) < searches
        ):
            try:
                work(rng)
            except Exception as error:
                load.faults.append(f"{type(error).__name__}: {error}")
            time.sleep(pause_s)

    with open_index() as collection:
        threads = []
        for writer in range(writers):
            work = _Writer(collection, writer, there, load, guard).write
            threads.append((work, writer, write_pause_s))
        for searcher in range(searchers):
            work = _Searcher(collection, there, load, guard, begun).search
            threads.append((work, 100 + searcher, search_pause_s))
        running = [threading.Thread(target=until_the_end, args=one) for one in threads]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        load.kept = len(there)
        _compare(collection, there, load, "at the end")
    with open_index() as again:
        _compare(again, there, load, "after opening it again")
    return load


class _Writer:
    def __init__(
        self,
        collection: Collection,
        writer: int,
        there: dict[str, str],
        load: Load,
        guard: threading.Lock,
    ) -> None:
        self._collection, self._writer, self._there = collection, writer, there
        self._load, self._guard = load, guard
        self._next = 0
        self._own: list[str] = []

    def write(self, rng: np.random.Generator) -> None:
        fresh = [f"{self._writer}-{self._next + n}" for n in range(BATCH - 6)]
        self._next += len(fresh)
        old = list(rng.permutation(self._own)[:6]) if len(self._own) > BATCH else []
        again, gone = [str(id) for id in old[:4]], [str(id) for id in old[4:]]
        words = f"version {rng.integers(2**40)}"
        dim = self._collection.info.embed_dim
        self._collection.upsert(
            Record(id=id, path=f"{id}.jpg", caption=words, vector=vector_of(id, dim))
            for id in [*fresh, *again]
        )
        with self._guard:
            self._there.update(dict.fromkeys([*fresh, *again], words))
            for id in gone:
                # From here on a searcher may or may not find it.
                del self._there[id]
        self._collection.delete(gone)
        self._own = [id for id in self._own if id not in gone] + fresh
        self._load.written += len(fresh) + len(again)
        self._load.removed += len(gone)
        id = str(rng.choice(self._own))
        (best,) = self._collection.search(vector_of(id, dim)[np.newaxis], 1)[0]
        if best.id != id:
            self._load.faults.append(f"{id} was written, and a search for it finds {best.id}")
        if gone and (left := self._collection.get(gone)):
            self._load.faults.append(f"{sorted(left)} were removed and are there")


class _Searcher:
    def __init__(
        self,
        collection: Collection,
        there: dict[str, str],
        load: Load,
        guard: threading.Lock,
        begun: float,
    ) -> None:
        self._collection, self._there, self._load = collection, there, load
        self._guard, self._begun = guard, begun

    def search(self, rng: np.random.Generator) -> None:
        with self._guard:
            before = len(self._there)
        dim = self._collection.info.embed_dim
        query = rng.standard_normal(dim)
        query = (query / np.linalg.norm(query)).astype(np.float32)
        start = time.monotonic()
        hits = self._collection.search(query[np.newaxis], 10)[0]
        took = time.monotonic() - start
        self._load.search_s.append((start - self._begun, took))
        scores = [hit.score for hit in hits]
        in_order = sorted(hits, key=lambda hit: sort_key(hit.score, hit.id))
        if len(hits) < min(before, 10) - 2 * 2 or hits != in_order:
            self._load.faults.append(f"{len(hits)} hits of {before} records, scores {scores}")
        for hit in hits:
            if abs(hit.score - float(query @ vector_of(hit.id, dim))) > 1e-3:
                self._load.faults.append(f"the score of {hit.id} is {hit.score}, and not its own")


def _compare(collection: Collection, there: dict[str, str], load: Load, when: str) -> None:
    found = {id: caption for id, _, caption, _ in collection.origins()}
    lost, stray = there.keys() - found.keys(), found.keys() - there.keys()
    old = [id for id in there.keys() & found.keys() if there[id] != found[id]]
    for what, ids in (("lost", lost), ("removed and there", stray), ("of an old version", old)):
        if ids:
            load.faults.append(f"{when}, {len(ids)} records are {what}, such as {min(ids)}")
    if (count := collection.count()) != len(there):
        load.faults.append(f"{when}, it counts {count} records and contains {len(there)}")
