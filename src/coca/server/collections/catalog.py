"""Catalog: the metadata of all items of a collection in memory, for browsing and facets."""

import threading
import time
from collections.abc import Sequence

from coca.search.milvus.collection import Collection
from coca.search.milvus.collection_io import batches
from coca.search.records import Hit

_READ_ROWS = 1_000
_STALE_S = 30.0
"""Age from which the catalog is read again where other clients write unseen, in seconds."""


class Catalog:
    """Items of a collection without their vectors, updated by what was written since."""

    def __init__(self, index: Collection) -> None:
        self._index = index
        self._items: dict[str, Hit] = {}
        self._newest_first: list[Hit] | None = None
        self._writes: int | None = None
        self._read_at = 0.0
        self._lock = threading.Lock()

    def items(self, filter: str = "") -> list[Hit]:
        """List the items that a filter keeps, newest first; items of unknown time follow by id.

        Raises:
            SearchError: Milvus rejects the filter.
        """
        with self._lock:
            self._refresh()
            items = self._items
            if self._newest_first is None:
                self._newest_first = sorted(items.values(), key=_age)
            newest_first = self._newest_first
        if not filter:
            return list(newest_first)
        kept = self._index.ids(filter)
        return sorted((items[id] for id in kept if id in items), key=_age)

    def _refresh(self) -> None:
        index, writes = self._index, self._index.writes
        changed = None if self._writes is None else index.changed_since(self._writes)
        stale = not index.sees_all_writes and time.monotonic() - self._read_at > _STALE_S
        if changed is None or stale:
            self._items, self._newest_first = self._read(index.ids()), None
            self._read_at = time.monotonic()
        elif changed:
            # A copy, since readers iterate over the old one.
            kept = {id: item for id, item in self._items.items() if id not in set(changed)}
            self._items, self._newest_first = kept | self._read(changed), None
        self._writes = writes

    def _read(self, ids: Sequence[str]) -> dict[str, Hit]:
        found: dict[str, Hit] = {}
        for part in batches(ids, _READ_ROWS):
            found |= {item.id: item for item in self._index.hits(dict.fromkeys(part, 0.0))}
        return found


def _age(item: Hit) -> tuple[int, str]:
    return -item.time, item.id
