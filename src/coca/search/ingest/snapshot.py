"""Snapshot of a collection by path, and detection of changes in the sources.

It is read from the collection itself, so the two cannot disagree.
"""

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coca.core.files.local_files import Roots, doubt, is_gone, nearest
from coca.search.ingest.sources import AnySource, Entry, RootedSource, empty_folders
from coca.search.records import (
    Origin,
    join_source_entries,
    series_of,
    source_of,
    split_source_entries,
)

WHOLE = "+"
"""Suffix of the etag of a series' last frame, which is written after all other frames."""


@dataclass(slots=True)
class RecordState:
    """State of one record in the collection, without its vector."""

    path: str
    has_caption: bool
    """Whether it has a caption, or a model generated an empty caption."""
    origin: Origin

    @classmethod
    def of(cls, path: str, caption: str, origin: Origin) -> "RecordState":
        """Create the state of a record from its path, caption and origin."""
        return cls(path, bool(caption) or origin.captioned, origin)

    @property
    def has_given_caption(self) -> bool:
        """Whether it has a caption that was not generated."""
        return self.has_caption and not self.origin.captioned


_SHARED_PARTS = 2
"""Number of leading parts of a path, such as `/home`, that machines may have in common."""
UNSURE = "?"
"""Suffix of the etag of a path that must be read again."""


class PathCache:
    """Cache of non-primary paths of records, across ingest runs.

    Primary paths can be queried in the collection; non-primary paths would need a full read. Writes
    of other programs are not included.

    Attributes:
        complete: Whether a run has read the whole collection.
    """

    def __init__(self) -> None:
        self.complete = False
        self._ids: dict[str, set[str]] = {}

    def ids_of(self, paths: Iterable[str]) -> set[str]:
        """Return the ids of records that may have one of these paths."""
        return {id for path in paths for id in self._ids.get(path, ())}

    def take_note(self, snapshot: "CollectionSnapshot") -> None:
        """Add the non-primary paths of a snapshot."""
        for path, id in snapshot.copies():
            self._ids.setdefault(path, set()).add(id)
        self.complete = self.complete or snapshot.complete


class CollectionSnapshot:
    """Records of a collection by id and by path, updated with each write.

    Attributes:
        complete: Whether it has every record, not only those of this run.
        spared: Folder whose drive may not be mounted -> its paths, which are missing.
        doubts: Folder of `spared` -> reason.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, str, str, Origin]],
        half: Container[str] = (),
        *,
        complete: bool = True,
        is_local: bool = False,
    ) -> None:
        """Store id, path, caption and origin of records."""
        self.complete = complete
        self._is_local = is_local
        self._has_sources = False
        self._known: dict[str, RecordState] = {}
        # Path -> ids of records with that path: several after a killed run. Tuples, as sets would
        # take a quarter of all memory.
        self._ids: dict[str, tuple[str, ...]] = {}
        # Entry of a series -> the paths of its frames.
        self._series: dict[str, set[str]] = {}
        # Path -> current etags in the sources of this run.
        self._etags: dict[str, str] = {}
        # Path -> source entries that the sources have lost.
        self._lost: dict[str, set[str]] = {}
        self._gone: set[str] = set()
        self.spared: dict[str, set[str]] = {}
        self.doubts: dict[str, str] = {}
        for id, path, caption, origin in rows:
            if id in half:
                files = {
                    path: join_source_entries(etag + UNSURE for etag in split_source_entries(etags))
                    for path, etags in origin.files.items()
                }
                origin = replace(origin, files=files)
            self.remember(id, RecordState.of(path, caption, origin))

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def __getitem__(self, id: str) -> RecordState:
        return self._known[id]

    def may_hold(self, id: str) -> bool:
        """Return whether the collection may have this record."""
        return id in self._known or not self.complete

    def copies(self) -> Iterator[tuple[str, str]]:
        """Iterate over non-primary paths and the ids of their records."""
        for id, known in self._known.items():
            yield from ((path, id) for path in known.origin.files if path != known.path)

    def look_at(self, sources: Sequence[AnySource], *, trust_empty: bool = False) -> int:
        """Read the etags of all entries of the sources; return the number of entries."""
        self._etags, self.doubts, self._has_sources = {}, {}, True
        for source in sources:
            for entry in source.entries():
                before = self._etags.get(entry.path)
                both = entry.etag if before is None else join_source_entries([before, entry.etag])
                self._etags[entry.path] = both
        self._lost, self._gone, self.spared = {}, set(), {}
        searching = [source for source in sources if isinstance(source, RootedSource)]
        folders = {root for source in searching for root in source.roots()}
        empty = Roots(() if trust_empty or not folders else empty_folders(folders, sources))

        def spared_folder(entry: str) -> str | None:
            if folder := empty.above(entry):
                self.doubts[folder] = "there is nothing to index in it"
                return folder
            folder = nearest(entry)
            if folder is None or not self._doubt(folder):
                return None
            return None if trust_empty and os.access(folder, os.R_OK) else folder

        def is_lost(path: str, etag: str) -> bool:
            entry = series_of(path, etag)
            for source in sources:
                if source.has_lost(entry, etag):
                    folder = spared_folder(entry) if source in searching else None
                    if folder is None:
                        return True
                    self.spared.setdefault(folder, set()).add(path)
            return False

        for path in self._ids:
            etags = self._etags_of(path)
            there = self._now(path, etags)
            lost = {etag for etag in etags if source_of(etag) not in there and is_lost(path, etag)}
            if lost == etags:
                self._gone.add(path)
            elif lost:
                self._lost[path] = lost
        return sum(len(source.entries()) for source in sources)

    @property
    def gone(self) -> list[str]:
        """Paths of records that the sources have lost, sorted."""
        return sorted(self._gone)

    @property
    def left(self) -> list[str]:
        """Paths that some sources have lost and others may still have, sorted."""
        return sorted(self._lost)

    def current_etags(self, path: str, etags: str) -> list[str]:
        """Return the source entries of a path that no source has lost."""
        if path in self._gone or (self.is_missing(path, etags) and not self.is_unsure(path)):
            return []
        lost = self._lost.get(path, ())
        return [etag for etag in split_source_entries(etags) if etag not in lost]

    def ids_of(self, path: str) -> list[str]:
        """Return the ids of records with a path, sorted."""
        return sorted(self._ids.get(path, ()))

    def has_entry(self, path: str, etag: str) -> bool:
        """Return whether a record has the path with this etag."""
        return etag in self._etags_of(path)

    def has_below(self, folder: str) -> bool:
        """Return whether a record has a path that equals a file or is below a folder."""
        return any(path == folder or path.startswith(f"{folder}{os.sep}") for path in self._ids)

    def is_whole(self, series: Entry, *, captions: bool) -> bool:
        """Return whether every current frame of a series is present, with captions if required."""
        paths = self.paths_of(series)
        return any(self.has_entry(path, series.etag + WHOLE) for path in paths) and (
            not captions
            or all(self._known[id].has_caption for path in paths for id in self.ids_of(path))
        )

    def paths_of(self, series: Entry) -> list[str]:
        """Return the frame paths of a series in the collection, sorted."""
        return sorted(self._series.get(series.path, ()))

    def stale_paths_of(self, series: Entry) -> list[str]:
        """Return the frame paths of an earlier version of a series, sorted."""
        etags = (series.etag, series.etag + WHOLE)
        return [
            path
            for path in self.paths_of(series)
            if not any(self.has_entry(path, etag) for etag in etags)
        ]

    def is_missing(self, path: str, etags: str) -> bool:
        """Return whether a path that no source lists is missing on this machine.

        The file was moved or deleted, or its drive is not mounted. On a server only paths count
        that begin with two existing folders, since the others may be of another machine.
        """
        file = series_of(path, etags)
        listed = not self._etags.keys().isdisjoint((path, file))
        if not self._has_sources or listed or not os.path.isabs(file) or not is_gone(file):
            return False
        return self._is_local or len(Path(nearest(file) or "").parts) > _SHARED_PARTS

    def is_unsure(self, path: str) -> bool:
        """Return whether a missing path may exist on a drive that is not mounted."""
        return bool(self._doubt(nearest(path) or ""))

    def _doubt(self, folder: str) -> str:
        if folder not in self.doubts:
            self.doubts[folder] = doubt(folder)
        return self.doubts[folder]

    def is_current(self, path: str, origin: Origin) -> bool:
        """Return whether a record's path exists and is unchanged, as far as is known."""
        etags = split_source_entries(origin.files.get(path, ""))
        now = self._now(path, etags)
        etags = [one.removesuffix(WHOLE) for one in etags]
        # An empty etag is inconclusive: for instance of a file on an unmounted drive.
        known_etags = [etag for etag in etags if now.get(source_of(etag))]
        same = not known_etags or any(etag == now[source_of(etag)] for etag in known_etags)
        return same and bool(self.current_etags(path, origin.files.get(path, "")))

    def remember(self, id: str, known: RecordState) -> None:
        """Add or update a written record."""
        self.forget(id)
        self._known[id] = known
        for path, etags in known.origin.files.items():
            self._ids[path] = (*self._ids.get(path, ()), id)
            if (series := series_of(path, etags)) != path:
                self._series.setdefault(series, set()).add(path)

    def forget(self, id: str) -> None:
        """Remove a deleted record."""
        known = self._known.pop(id, None)
        for path, etags in known.origin.files.items() if known else ():
            left = tuple(other for other in self._ids.pop(path) if other != id)
            if left:
                self._ids[path] = left
            else:
                self._series.get(series_of(path, etags), set()).discard(path)

    def _etags_of(self, path: str) -> set[str]:
        ids = self._ids.get(path, ())
        return {
            etag for id in ids for etag in split_source_entries(self._known[id].origin.files[path])
        }

    def _now(self, path: str, etags: Iterable[str]) -> dict[str, str]:
        """Return source -> current etag of a path in the sources of this run."""
        names = {path, *(series_of(path, etag) for etag in etags)}
        texts = [self._etags[name] for name in names if name in self._etags]
        return {source_of(one): one for text in texts for one in split_source_entries(text)}
