"""Catalog: order and facet values of all items of a collection in memory, for browsing and facets.

What a page of items shows is read from the collection for each page: 0.7 KB an item stay in memory,
where hits take 1.4 KB.
"""

import math
import sys
import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as AnyOf
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from coca.search.records import (
    LOOKS_LIKE,
    METADATA,
    OCR_TEXT,
    RAW_FILE,
    Hit,
    Record,
    batches,
    video_of,
)
from coca.search.store import Collection
from coca.search.stores import is_file

_READ_ROWS = 1_000
_STALE_S = 30.0
"""Minimum age of the catalog of a server when it is read again without a known change, in seconds:
Milvus does not report which rows other clients replaced."""
_TIMES_READ = 20
"""Minimum age in multiples of the time that the reading took: 5 % of the time."""
_FEW = 1_000
"""Number of changes up to which items are inserted in order; after more, all are sorted."""
_UNCOUNTED = ("captions", LOOKS_LIKE, OCR_TEXT, RAW_FILE)
"""Metadata that is not a value to count."""
_MAX_LETTERS = 256
"""Maximum length of a text that is a facet value."""

FacetPair: TypeAlias = tuple[str, bool | int | float | str]
"""A field, such as `tags` or `metadata.year`, and one of its values."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """What stays in memory of an item."""

    id: str
    time: int
    """Date in seconds since 1970, see `Record.date_source`; 0 if unknown."""
    values: tuple[FacetPair, ...]
    """Each value once; a list in the metadata has several values."""
    is_hidden: bool = False
    album: str = ""
    """Album that groups it; empty: a group of its own."""
    content: str = ""
    """Hash of the image's bytes; empty if unknown."""
    video: str = ""
    """Path of the video of a frame; empty for other images."""


class Catalog:
    """Items of a collection in order, updated by what was written since."""

    def __init__(
        self,
        collection: Collection,
        on_gone: Callable[[AnyOf[tuple[str, str]]], None] = lambda images: None,
    ) -> None:
        """Read nothing before the first list.

        Args:
            collection: The collection.
            on_gone: Is called with the id and content of items that were deleted, or that have
                another image now.
        """
        self._collection, self._on_gone = collection, on_gone
        self._is_file = is_file(collection.info.uri)
        # In the order of the list; replaced and never changed, since readers iterate over them.
        self._listed: list[CatalogEntry] = []
        self._hidden: list[CatalogEntry] = []
        self._by_id: dict[str, CatalogEntry] | None = None
        self._version, self._due_s, self._old_s = -1, 0.0, math.inf
        self._lock = threading.Lock()

    def entries(self, filter: str = "", *, hidden: bool = False) -> Sequence[CatalogEntry]:
        """List the items that a filter keeps, newest first; items of unknown time follow by id."""
        with self._lock:
            self._refresh()
            entries = self._hidden if hidden else self._listed
        if not filter:
            return entries
        kept = set(self._collection.ids(filter))
        return [entry for entry in entries if entry.id in kept]

    def hits(self, entries: Iterable[CatalogEntry]) -> list[Hit]:
        """Read what a page of items shows; hits have a score of 0."""
        return self._collection.hits(dict.fromkeys((entry.id for entry in entries), 0.0))

    def read(self) -> int:
        """Read the items, if that is due, and return their number."""
        return len(self.entries())

    def lacks(self, id: str, content: str) -> bool:
        """Return whether no item had this image when the catalog was last read; else false."""
        by_id = self._by_id
        return by_id is not None and (id not in by_id or by_id[id].content != content)

    def _refresh(self) -> None:
        changes = self._collection.changes(self._version)
        now_s = time.monotonic()
        if (changes.ids is None and now_s >= self._due_s) or now_s >= self._old_s:
            self._read()
        elif changes.ids:
            self._update(set(changes.ids))
        else:
            return
        self._version = changes.version

    def _read(self) -> None:
        """Read all items."""
        began_s = time.monotonic()
        pages = self._collection.pages(vectors=False, size=_READ_ROWS)
        before, self._by_id = self._by_id or {}, {one.id: one for one in _entries(pages)}
        self._sort(self._by_id)
        self._report(before, self._by_id)
        if not self._is_file:
            ended_s = time.monotonic()
            self._due_s = ended_s + _TIMES_READ * (ended_s - began_s)
            self._old_s = max(self._due_s, ended_s + _STALE_S)

    def _update(self, ids: AnyOf[str]) -> None:
        """Read the items with these ids again."""
        parts = (dict.fromkeys(some, 0.0) for some in batches(ids, _READ_ROWS))
        now = {one.id: one for one in _entries(map(self._collection.hits, parts))}
        by_id = self._by_id or {}
        before = {id: by_id.pop(id) for id in ids if id in by_id}
        by_id.update(now)
        if len(ids) <= _FEW:
            self._listed, self._hidden = self._listed.copy(), self._hidden.copy()
            for entry in before.values():
                place = self._hidden if entry.is_hidden else self._listed
                del place[bisect_left(place, _age(entry), key=_age)]
            for entry in now.values():
                insort(self._hidden if entry.is_hidden else self._listed, entry, key=_age)
        else:
            self._sort(by_id)
        self._report(before, now)

    def _sort(self, by_id: Mapping[str, CatalogEntry]) -> None:
        entries = sorted(by_id.values(), key=_age)
        self._listed = [entry for entry in entries if not entry.is_hidden]
        self._hidden = [entry for entry in entries if entry.is_hidden]

    def _report(self, before: Mapping[str, CatalogEntry], now: Mapping[str, CatalogEntry]) -> None:
        gone = [
            (id, entry.content)
            for id, entry in before.items()
            if id not in now or now[id].content != entry.content
        ]
        if gone:
            self._on_gone(gone)


def _entries(parts: Iterable[Sequence[Hit | Record]]) -> Iterator[CatalogEntry]:
    # Most values are those of many items, which then share them.
    known: dict[tuple[str, type, Any], FacetPair] = {}
    for items in parts:
        for item in items:
            values, album = _values(item, known), sys.intern(item.album)
            video = sys.intern(video_of(item))
            yield CatalogEntry(item.id, item.time, values, item.hidden, album, item.content, video)


def _values(
    item: Hit | Record, known: dict[tuple[str, type, Any], FacetPair]
) -> tuple[FacetPair, ...]:
    fields: dict[str, Any] = {
        "tags": item.tags,
        "album": item.album,
        "caption_source": item.caption_source,
        **{
            f"{METADATA}.{key}": value
            for key, value in item.metadata.items()
            if key not in _UNCOUNTED
        },
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


def first_of_groups(
    entries: Iterable[CatalogEntry], group_by: Literal["album", "video"]
) -> list[CatalogEntry]:
    """Keep the first entry of each album or video, and all entries without one."""
    groups: set[str] = set()
    kept = []
    for entry in entries:
        group = entry.album if group_by == "album" else entry.video
        if not group or group not in groups:
            groups.add(group)
            kept.append(entry)
    return kept


def count_days(entries: Sequence[CatalogEntry]) -> list[tuple[str, int]]:
    """Count entries by day, `YYYY-MM-DD` and newest first; empty for an unknown time."""
    times = np.fromiter((entry.time for entry in entries), np.int64, len(entries))
    days, counts = np.unique(times[times != 0] // 86_400, return_counts=True)
    named = map(str, days[::-1].astype("datetime64[D]"))
    found = list(zip(named, map(int, counts[::-1]), strict=True))
    unknown = int((times == 0).sum())
    return [*found, ("", unknown)] if unknown else found


def _age(entry: CatalogEntry) -> tuple[bool, int, str]:
    return entry.time == 0, -entry.time, entry.id
