"""What a collection holds, path by path, and what has changed since: the memory of a filling.

It is read from the collection itself, so that it cannot contradict what is there.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

from coca.search.records import Origin
from coca.search.sources import AnySource, Entry, series_of

WHOLE = "+"
"""Ends the stamp of a series' last picture, which is written after all others of it."""


@dataclass
class Known:
    """What the collection holds for one id, without the vector."""

    path: str
    has_caption: bool
    origin: Origin


UNSURE = "?"
"""Ends the stamp of what must be read again, whatever the source says."""


class Ledger:
    """The records of a collection by id and by path, kept in step with what is written."""

    def __init__(
        self, rows: Iterable[tuple[str, str, str, Origin]], half: Container[str] = ()
    ) -> None:
        """Take id, path, caption and origin of every record, and the ids of those not whole."""
        self._known: dict[str, Known] = {}
        # Path -> the records that claim it: several after a run that was killed.
        self._ids: dict[str, set[str]] = {}
        # Entry that is a series -> the paths of its pictures.
        self._series: dict[str, set[str]] = {}
        # Path -> stamp as it is now, for what the sources of this run hold.
        self._stamps: dict[str, str] = {}
        self._gone: set[str] = set()
        for id, path, caption, origin in rows:
            if id in half:
                files = {path: stamp + UNSURE for path, stamp in origin.files.items()}
                origin = replace(origin, files=files)
            self.remember(id, Known(path, bool(caption), origin))

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def __getitem__(self, id: str) -> Known:
        return self._known[id]

    def look_at(self, sources: Sequence[AnySource]) -> int:
        """Take the stamps of everything that the sources hold; returns how much that is."""
        self._stamps = {entry.path: entry.stamp for s in sources for entry in s.entries()}
        self._gone = {
            path
            for path, ids in self._ids.items()
            if (place := series_of(path)) not in self._stamps
            and any(
                source.has_lost(place, self._known[id].origin.files[path])
                for id in ids
                for source in sources
            )
        }
        return sum(len(source.entries()) for source in sources)

    @property
    def gone(self) -> list[str]:
        """Paths that records claim and that the sources have lost, sorted."""
        return sorted(self._gone)

    def ids_of(self, path: str) -> list[str]:
        """The records that claim a path, sorted."""
        return sorted(self._ids.get(path, ()))

    def is_claimed(self, path: str, stamp: str) -> bool:
        """Whether a record claims the path as it is now."""
        return any(self._known[id].origin.files[path] == stamp for id in self.ids_of(path))

    def is_whole(self, series: Entry, *, captions: bool) -> bool:
        """Whether every picture of a series, as it is now, is there, with captions if need be."""
        paths = self.paths_of(series)
        return any(self.is_claimed(path, series.stamp + WHOLE) for path in paths) and (
            not captions
            or all(self._known[id].has_caption for path in paths for id in self.ids_of(path))
        )

    def paths_of(self, series: Entry) -> list[str]:
        """The pictures of a series that records claim, sorted."""
        return sorted(self._series.get(series.path, ()))

    def stale_paths_of(self, series: Entry) -> list[str]:
        """Pictures of a series that it had at another time, sorted."""
        stamps = (series.stamp, series.stamp + WHOLE)
        return [
            path
            for path in self.paths_of(series)
            if not any(self.is_claimed(path, stamp) for stamp in stamps)
        ]

    def is_current(self, path: str, origin: Origin) -> bool:
        """Whether what a record claims is there and has not changed, as far as is known."""
        claimed = origin.files.get(path, "").removesuffix(WHOLE)
        return path not in self._gone and self._stamps.get(series_of(path), claimed) == claimed

    def is_gone(self, path: str) -> bool:
        """Whether a source has lost this path."""
        return path in self._gone

    def remember(self, id: str, known: Known) -> None:
        """Take note of a record as it is written."""
        self.forget(id)
        self._known[id] = known
        for path in known.origin.files:
            self._ids.setdefault(path, set()).add(id)
            if (series := series_of(path)) != path:
                self._series.setdefault(series, set()).add(path)

    def forget(self, id: str) -> None:
        """Take note of a record that is removed."""
        known = self._known.pop(id, None)
        for path in known.origin.files if known else ():
            self._ids[path].discard(id)
            if not self._ids[path]:
                self._series.get(series_of(path), set()).discard(path)
