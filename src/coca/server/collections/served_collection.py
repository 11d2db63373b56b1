"""Served collection: an open collection with its search engine and its writers.

Queries of many clients share one call of Milvus.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from coca.search.milvus.collection import Collection
from coca.search.query.engine import SearchEngine
from coca.search.query.match import Calibration
from coca.search.records import Hit, Record
from coca.search.search_options import SearchOptions
from coca.server.collections.catalog import Catalog
from coca.server.errors import ServiceError
from coca.server.served_model import Batcher
from coca.server.settings import ServerSettings


@dataclass(frozen=True)
class _Query:
    vector: Float[np.ndarray, " E"]
    options: SearchOptions

    @property
    def group(self) -> str:
        """Queries of the same group can share one call."""
        return repr(self.options)


class BatchedSearch(Collection):
    """A collection whose searches with equal options share calls.

    A call of Milvus Lite with 32 queries takes a quarter of the processor time of 32 calls. A query
    never waits for others: while a call runs, further queries queue up.
    """

    def __init__(self, collection: Collection, settings: ServerSettings) -> None:
        """Start the thread that searches; all else is that of `collection`, which stays usable."""
        vars(self).update(vars(collection))
        self._batcher: Batcher[_Query, list[Hit] | Exception] = Batcher(
            self._run, max_batch=settings.max_batch, wait_s=0.0, queue_size=settings.queue_size
        )

    def search(
        self, vectors: Float[np.ndarray, "Q E"], k: int = 10, **options: Any
    ) -> list[list[Hit]]:
        """Find the nearest records to each vector; see `Collection.search`."""
        page = SearchOptions.of(k=k, **options)
        found = self._batcher.map([_Query(vector, page) for vector in vectors])
        for one in found:
            if isinstance(one, Exception):
                raise one
        return [one for one in found if not isinstance(one, Exception)]

    def stop(self) -> None:
        """End the thread; the collection stays open."""
        self._batcher.close()

    def _run(self, queries: Sequence[_Query]) -> list[list[Hit] | Exception]:
        results: list[list[Hit] | Exception] = [[] for _ in queries]
        groups: dict[str, list[int]] = {}
        for row, query in enumerate(queries):
            groups.setdefault(query.group, []).append(row)
        for rows in groups.values():
            first = queries[rows[0]]
            try:
                vectors = np.stack([queries[row].vector for row in rows])
                hits = super().search(vectors, **vars(first.options))
            except Exception as error:
                # Only the queries of this group are at fault.
                for row in rows:
                    results[row] = error
                continue
            for row, found in zip(rows, hits, strict=True):
                results[row] = found
        return results


@dataclass
class ServedCollection:
    """An open collection with its search engine."""

    name: str
    collection: Collection
    engine: SearchEngine
    catalog: Catalog
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude other writers between reading and writing a record."""
        with self._lock:
            yield

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of match probabilities, if there is one."""
        return Calibration.of(self.collection.info, fingerprint=self.engine.embedder.fingerprint)

    def thumbnail_key(self, id: str) -> str:
        """Return the key of an item's thumbnails, different in all collections."""
        return thumbnail_key(self.collection, id)

    def record(self, id: str) -> Record:
        """Read an item."""
        record = self.collection.get([id]).get(id)
        if record is None:
            raise ServiceError(
                f"there is no item {id!r} in collection {self.name!r}",
                status=404,
                code="no_such_item",
            )
        return record


def thumbnail_key(collection: Collection, id: str) -> str:
    """Return the key of an item's thumbnails, different in all collections."""
    return f"{collection.info.uri}/{collection.own_name}/{id}"
