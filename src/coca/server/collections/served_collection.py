"""Served collection: an open collection with its search engine and its writers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from coca.search.milvus.collection import Collection
from coca.search.query.engine import SearchEngine
from coca.search.query.match import Calibration
from coca.search.records import Record
from coca.server.collections.catalog import Catalog
from coca.server.errors import ServiceError


@dataclass
class ServedCollection:
    """An open collection with its search engine."""

    name: str
    collection: Collection
    engine: SearchEngine
    catalog: Catalog
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _indexing: bool = False

    def check_writable(self) -> None:
        """Check that no job writes the collection."""
        if self._indexing:
            raise ServiceError(
                f"collection {self.name!r} is being indexed, and takes no other changes until then",
                status=503,
                code="indexing",
                retry_after_s=5,
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude other writers between reading and writing a record."""
        with self._lock:
            self.check_writable()
            yield

    @contextmanager
    def indexing(self) -> Iterator[None]:
        """Reject other writers while a job writes: both would overwrite each other's records."""
        with self._lock:
            self._indexing = True
        try:
            yield
        finally:
            self._indexing = False

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
