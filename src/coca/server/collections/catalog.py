"""Catalog: order and facet values of all items of a collection in memory, for browsing and facets.

What a page of items shows is read from the collection for each page: 0.6 KB an item stay in memory,
where hits take 1.4 KB.
"""

import sys
import threading
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Collection as AnyOf
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from coca.search.milvus.collection import Collection
from coca.search.milvus.lite import Watch
from coca.search.records import HIDDEN, METADATA, OCR_TEXT, RAW_FILE, Hit, batches, is_hidden

_READ_ROWS = 1_000
_STALE_S = 30.0
"""Minimum age of the catalog when it is read again, where other clients write; see `Watch`."""
_UNCOUNTED = ("captions", HIDDEN, OCR_TEXT, RAW_FILE)
"""Metadata that is not a value to count."""
_MAX_LETTERS = 256
"""Maximum length of a text that is a facet value."""

FacetPair: TypeAlias = tuple[str, bool | int | float | str]
"""A field, such as `tags` or `metadata.year`, and one of its values."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stays in memory of an item."""

    id: str
    time: int
    """Date in seconds since 1970, see `Record.date_source`; 0 if unknown."""
    values: tuple[FacetPair, ...]
    """Each value once; a list in the metadata has several values."""
    is_hidden: bool = False
    album: str = ""
    """Album that groups it; empty: a group of its own."""


class Catalog:
    """Items of a collection in order, updated by what was written since."""

    def __init__(
        self, collection: Collection, on_deleted: Callable[[AnyOf[str]], None] = lambda ids: None
    ) -> None:
        """Read nothing before the first list."""
        self._collection, self._on_deleted = collection, on_deleted
        self._entries: list[Entry] = []
        self._listed: list[Entry] = []
        self._hidden: list[Entry] = []
        self._ids: frozenset[str] | None = None
        self._writes: int | None = None
        self._watch = Watch(collection, _STALE_S)
        self._lock = threading.Lock()

    def entries(self, filter: str = "", *, hidden: bool = False) -> Sequence[Entry]:
        """List the items that a filter keeps, newest first; items of unknown time follow by id."""
        with self._lock:
            self._refresh()
            entries = self._hidden if hidden else self._listed
        if not filter:
            return entries
        kept = set(self._collection.ids(filter))
        return [entry for entry in entries if entry.id in kept]

    def hits(self, entries: Iterable[Entry]) -> list[Hit]:
        """Read what a page of items shows; hits have a score of 0."""
        return self._collection.hits(dict.fromkeys((entry.id for entry in entries), 0.0))

    def read(self) -> int:
        """Read the items, if that is due, and return their number."""
        return len(self.entries())

    def lacks(self, id: str) -> bool:
        """Return whether an item was missing when the catalog was last read; false before that."""
        ids = self._ids
        return ids is not None and id not in ids

    def _refresh(self) -> None:
        collection, writes = self._collection, self._collection.writes
        changed = None if self._writes is None else collection.changed_since(self._writes)
        if changed is None or self._watch.is_old():
            with self._watch.reading():
                self._entries = sorted(_entries(collection.read_hits()), key=_age)
        elif changed:
            # A new list, since readers iterate over the old one.
            again = set(changed)
            kept = [entry for entry in self._entries if entry.id not in again]
            parts = (collection.hits(dict.fromkeys(ids, 0.0)) for ids in batches(again, _READ_ROWS))
            for entry in _entries(parts):
                insort(kept, entry, key=_age)
            self._entries = kept
        else:
            return
        self._hidden = [entry for entry in self._entries if entry.is_hidden]
        self._listed = self._entries
        if self._hidden:
            self._listed = [entry for entry in self._entries if not entry.is_hidden]
        before, self._ids = self._ids, frozenset(entry.id for entry in self._entries)
        if before is not None and (deleted := before - self._ids):
            self._on_deleted(deleted)
        self._writes = writes


def _entries(parts: Iterable[Sequence[Hit]]) -> Iterator[Entry]:
    # Most values are those of many items, which then share them.
    known: dict[tuple[str, type, Any], FacetPair] = {}
    for hits in parts:
        for hit in hits:
            values, album = _values(hit, known), sys.intern(hit.album)
            yield Entry(hit.id, hit.time, values, is_hidden(hit.metadata), album)


def _values(hit: Hit, known: dict[tuple[str, type, Any], FacetPair]) -> tuple[FacetPair, ...]:
    fields: dict[str, Any] = {
        "tags": hit.tags,
        "album": hit.album,
        "caption_source": hit.caption_source,
        **{f"{METADATA}.{key}": hit.metadata[key] for key in hit.metadata if key not in _UNCOUNTED},
    }
    pairs: dict[FacetPair, None] = {}
    for field, value in fields.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if _is_countable(one):
                pairs[known.setdefault((field, type(one), one), (field, one))] = None
    return tuple(pairs)


def _is_countable(value: Any) -> bool:
    return isinstance(value, int | float) or (
        isinstance(value, str) and 0 < len(value) <= _MAX_LETTERS
    )


def first_of_albums(entries: Iterable[Entry]) -> list[Entry]:
    """Keep the first entry of each album, and all entries without an album."""
    albums: set[str] = set()
    kept = []
    for entry in entries:
        if not entry.album or entry.album not in albums:
            albums.add(entry.album)
            kept.append(entry)
    return kept


def count_months(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """Count entries by month, `YYYY-MM` and newest first; empty for an unknown time."""
    times = np.fromiter((entry.time for entry in entries), np.int64, len(entries))
    months, counts = np.unique(
        times[times != 0].astype("datetime64[s]").astype("datetime64[M]"), return_counts=True
    )
    found = list(zip(map(str, months[::-1]), map(int, counts[::-1]), strict=True))
    unknown = int((times == 0).sum())
    return [*found, ("", unknown)] if unknown else found


def _age(entry: Entry) -> tuple[bool, int, str]:
    return entry.time == 0, -entry.time, entry.id
