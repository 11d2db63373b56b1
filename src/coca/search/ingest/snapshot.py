"""What a collection holds, path by path, and what has changed since: the memory of a filling.

It is read from the collection itself, so that it cannot contradict what is there.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from coca.core.absence import Roots
from coca.search.frame_paths import series_of
from coca.search.ingest.sources import AnySource, Entry, RootedSource, empty_folders
from coca.search.records import Origin
from coca.search.source_entries import claims_in, join_claims, source_of

WHOLE = "+"
"""Ends the stamp of a series' last image, which is written after all others of it."""


@dataclass(slots=True)
class Known:
    """What the collection holds for one id, without the vector."""

    path: str
    has_caption: bool
    """It has one, or a model was asked for one and had nothing to say."""
    origin: Origin

    @classmethod
    def of(cls, path: str, caption: str, origin: Origin) -> "Known":
        """What a record with this path, caption and origin is known by."""
        return cls(path, bool(caption) or origin.captioned, origin)

    @property
    def has_given_caption(self) -> bool:
        """It has one that no model wrote."""
        return self.has_caption and not self.origin.captioned


UNSURE = "?"
"""Ends the stamp of what must be read again, whatever the source says."""


class Copies:
    """Which records claim paths that do not lead them, from one filling to the next.

    All else about a path is asked of the collection by that path; this would take reading it all.
    What other programs bring in meanwhile is not known.

    Attributes:
        complete: A filling has read the whole collection since.
    """

    def __init__(self) -> None:
        self.complete = False
        self._ids: dict[str, set[str]] = {}

    def ids_of(self, paths: Iterable[str]) -> set[str]:
        """The records that may claim one of these paths."""
        return {id for path in paths for id in self._ids.get(path, ())}

    def take_note(self, snapshot: "CollectionSnapshot") -> None:
        """Add the copies that a ledger knows."""
        for path, id in snapshot.copies():
            self._ids.setdefault(path, set()).add(id)
        self.complete = self.complete or snapshot.complete


class CollectionSnapshot:
    """The records of a collection by id and by path, kept in step with what is written.

    Attributes:
        complete: It knows every record, and not only those that matter to this filling.
        spared: Folder that is empty -> paths in it that would be lost if its drive is mounted.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, str, str, Origin]],
        half: Container[str] = (),
        *,
        complete: bool = True,
    ) -> None:
        """Take id, path, caption and origin of records, and the ids of those not whole."""
        self.complete = complete
        self._known: dict[str, Known] = {}
        # Path -> the records that claim it: several after a run that was killed. No sets, which
        # would be a quarter of all memory.
        self._ids: dict[str, tuple[str, ...]] = {}
        # Entry that is a series -> the paths of its images.
        self._series: dict[str, set[str]] = {}
        # Path -> stamps as they are now, for what the sources of this run hold.
        self._stamps: dict[str, str] = {}
        # Path -> claims on it that the sources have lost.
        self._lost: dict[str, set[str]] = {}
        self._gone: set[str] = set()
        self.spared: dict[str, set[str]] = {}
        for id, path, caption, origin in rows:
            if id in half:
                files = {
                    path: join_claims(stamp + UNSURE for stamp in claims_in(stamps))
                    for path, stamps in origin.files.items()
                }
                origin = replace(origin, files=files)
            self.remember(id, Known.of(path, caption, origin))

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def __getitem__(self, id: str) -> Known:
        return self._known[id]

    def may_hold(self, id: str) -> bool:
        """Whether the collection has this record, as far as is known."""
        return id in self._known or not self.complete

    def copies(self) -> Iterator[tuple[str, str]]:
        """Every path that does not lead its record, and the record's id."""
        for id, known in self._known.items():
            yield from ((path, id) for path in known.origin.files if path != known.path)

    def look_at(self, sources: Sequence[AnySource], *, trust_empty: bool = False) -> int:
        """Take the stamps of everything that the sources hold; returns how much that is.

        Args:
            sources: Of this run.
            trust_empty: A folder in which no source holds anything has lost what was in it;
                otherwise its drive may not be mounted, and nothing of it is lost.
        """
        self._stamps = {}
        for source in sources:
            for entry in source.entries():
                before = self._stamps.get(entry.path)
                both = entry.stamp if before is None else join_claims([before, entry.stamp])
                self._stamps[entry.path] = both
        self._lost, self._gone, self.spared = {}, set(), {}
        searching = [source for source in sources if isinstance(source, RootedSource)]
        folders = {root for source in searching for root in source.roots()}
        empty = Roots(() if trust_empty or not folders else empty_folders(folders, sources))

        def is_lost(path: str, claim: str) -> bool:
            entry = series_of(path, claim)
            for source in sources:
                if source.has_lost(entry, claim):
                    folder = empty.above(entry) if source in searching else None
                    if folder is None:
                        return True
                    self.spared.setdefault(folder, set()).add(path)
            return False

        for path in self._ids:
            claims = self._claims_on(path)
            there = self._now(path, claims)
            lost = {
                claim for claim in claims if source_of(claim) not in there and is_lost(path, claim)
            }
            if lost == claims:
                self._gone.add(path)
            elif lost:
                self._lost[path] = lost
        return sum(len(source.entries()) for source in sources)

    @property
    def gone(self) -> list[str]:
        """Paths that records claim and that the sources have lost, sorted."""
        return sorted(self._gone)

    @property
    def left(self) -> list[str]:
        """Paths that some sources have lost while others may hold them, sorted."""
        return sorted(self._lost)

    def held(self, path: str, stamps: str) -> list[str]:
        """Of a record's claims on a path, those that no source has lost."""
        if path in self._gone:
            return []
        lost = self._lost.get(path, ())
        return [claim for claim in claims_in(stamps) if claim not in lost]

    def ids_of(self, path: str) -> list[str]:
        """The records that claim a path, sorted."""
        return sorted(self._ids.get(path, ()))

    def is_claimed(self, path: str, stamp: str) -> bool:
        """Whether a record claims the path as it is now."""
        return stamp in self._claims_on(path)

    def is_whole(self, series: Entry, *, captions: bool) -> bool:
        """Whether every image of a series, as it is now, is there, with captions if need be."""
        paths = self.paths_of(series)
        return any(self.is_claimed(path, series.stamp + WHOLE) for path in paths) and (
            not captions
            or all(self._known[id].has_caption for path in paths for id in self.ids_of(path))
        )

    def paths_of(self, series: Entry) -> list[str]:
        """The images of a series that records claim, sorted."""
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
        stamps = claims_in(origin.files.get(path, ""))
        now = self._now(path, stamps)
        claims = [one.removesuffix(WHOLE) for one in stamps]
        # An empty stamp tells nothing: such as of a file on a drive that is not mounted.
        told = [claim for claim in claims if now.get(source_of(claim))]
        same = not told or any(claim == now[source_of(claim)] for claim in told)
        return path not in self._gone and same

    def remember(self, id: str, known: Known) -> None:
        """Take note of a record as it is written."""
        self.forget(id)
        self._known[id] = known
        for path, stamps in known.origin.files.items():
            self._ids[path] = (*self._ids.get(path, ()), id)
            if (series := series_of(path, stamps)) != path:
                self._series.setdefault(series, set()).add(path)

    def forget(self, id: str) -> None:
        """Take note of a record that is removed."""
        known = self._known.pop(id, None)
        for path, stamps in known.origin.files.items() if known else ():
            left = tuple(other for other in self._ids.pop(path) if other != id)
            if left:
                self._ids[path] = left
            else:
                self._series.get(series_of(path, stamps), set()).discard(path)

    def _claims_on(self, path: str) -> set[str]:
        ids = self._ids.get(path, ())
        return {claim for id in ids for claim in claims_in(self._known[id].origin.files[path])}

    def _now(self, path: str, claims: Iterable[str]) -> dict[str, str]:
        """Source -> stamp of what the sources of this run hold under a path with these claims."""
        names = {path, *(series_of(path, claim) for claim in claims)}
        texts = [self._stamps[name] for name in names if name in self._stamps]
        return {source_of(one): one for text in texts for one in claims_in(text)}
