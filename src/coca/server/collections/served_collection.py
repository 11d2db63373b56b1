"""Served collection: an open collection with its search engine and its writers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from coca.search.query.engine import SearchEngine
from coca.search.records import CollectionInfo, Record
from coca.search.store import Collection
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

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude other writers between reading and writing a record."""
        with self._lock:
            yield

    def thumbnail_key(self, id: str, content: str) -> str:
        """Return the key of the thumbnails of an item's image, different in all collections."""
        return thumbnail_key(self.collection.info, id, content)

    def record(self, id: str) -> Record:
        """Read an item."""
        record = self.collection.get([id]).get(id)
        if record is None:
            raise self.missing(id)
        return record

    def missing(self, id: str) -> ServiceError:
        """Build the error of a missing item."""
        return ServiceError(
            f"there is no item {id!r} in collection {self.name!r}",
            status=404,
            code="no_such_item",
        )


def thumbnail_key(info: CollectionInfo, id: str, content: str) -> str:
    """Return the key of the thumbnails of an item's image, different in all collections."""
    return f"{info.uri}/{info.collection}/{id}/{content}"
