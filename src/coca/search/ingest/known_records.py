"""What a collection has of the sources of a run, and what the sources have lost of it."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from coca.core.errors import SearchError
from coca.core.files.formats import PHOTO_SUFFIXES
from coca.core.files.local_files import Roots, doubt, is_gone, nearest
from coca.search.filters import all_of, where
from coca.search.ingest.merging import is_captioned
from coca.search.ingest.sources import (
    WHOLE,
    Entry,
    ImageSource,
    empty_folders,
)
from coca.search.records import PATH, Record, record_id, series_of
from coca.search.store import Collection

logger = logging.getLogger(__name__)

_MOST_ENTRIES, _MOST_FOLDERS = 1_000, 16
"""Up to so many entries, and files or folders that are not images, only their records are read."""
_IS_TEXT = f'{PATH} == ""'
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class RecordState:
    """State of one record, without what only searches need."""

    path: str
    etag: str
    label: str
    content: str
    read: int
    has_caption: bool
    """Whether it has a caption, or a model generated an empty caption."""

    @property
    def file(self) -> str:
        """Path of its file; that of the film of a frame."""
        return series_of(self.path, self.etag)


class KnownRecords:
    """States of records by id, and the entries of a run that they are compared with.

    Attributes:
        contents: Hashes of images that the collection has, as far as its records were read.
        complete: Whether all records were read, and not only those of the sources.
    """

    def __init__(self, sources: Sequence[ImageSource], collection: Collection) -> None:
        """Read the records of the sources, and those that they may have lost.

        Raises:
            SearchError: The collection contains classes or other texts.
        """
        self._sources = sources
        self._states: dict[str, RecordState] = {}
        self._series: dict[str, set[str]] = {}
        self._is_gone = cache(is_gone)
        self.contents: set[str] = set()
        self._films: set[str] = set()
        self._etags: dict[str, str] = {}
        for source in sources:
            if source.is_series:
                self._films.update(entry.path for entry in source.entries())
            else:
                self._etags |= {entry.id: entry.etag for entry in source.entries()}
        count = collection.count()
        places = _few_places(sources) if count else None
        self.complete = places is None
        filters = [""] if count else []
        if places is not None:
            ids = [*self._etags, *(record_id(place) for place in places if not _is_wide(place))]
            for record in collection.get(ids).values():
                self.remember(record)
            filters = [_at_or_below(place) for place in places if _is_wide(place)]
        for text in filters:
            for page in collection.pages(text, vectors=False):
                for record in page:
                    self.remember(record)
        is_filled = not count or any(state.path for state in self._states.values())
        if not is_filled and collection.count(_IS_TEXT):
            raise SearchError(
                f"collection {collection.info.collection!r} contains classes or other texts; "
                "images need a collection of their own: name another"
            )

    def get(self, entry: Entry) -> RecordState | None:
        """Return the state of an entry's record, if the collection has it."""
        return self._states.get(entry.id)

    def remember(self, record: Record) -> None:
        """Add or replace the state of a record."""
        origin = record.origin
        state = self._states[record.id] = RecordState(
            record.path,
            origin.etag,
            origin.label,
            record.content,
            origin.read,
            is_captioned(record),
        )
        self.contents.add(state.content)
        if state.file != state.path:
            self._series.setdefault(state.file, set()).add(record.id)

    def forget(self, ids: Iterable[str]) -> None:
        """Remove the states of deleted records."""
        for id in ids:
            if state := self._states.pop(id, None):
                self._series.get(state.file, set()).discard(id)

    def has_left(self, record: Record) -> bool:
        """Return whether the file of a record has left its path, where another one may be now."""
        if record.id in self._etags:
            return self._etags[record.id] != record.origin.etag
        file = series_of(record.path, record.origin.etag)
        if file in self._films or not self._sources or not os.path.isabs(file):
            return False
        return self._is_gone(file)

    def is_listed(self, id: str) -> bool:
        """Return whether a source of this run has the path of a record."""
        return id in self._etags

    def lacks_captions(self) -> bool:
        """Return whether a record that the sources have lacks a caption."""
        return any(
            not state.has_caption and (id in self._etags or state.file in self._films)
            for id, state in self._states.items()
        )

    def has_below(self, folder: str) -> bool:
        """Return whether a record has a path that equals a file or is below a folder."""
        below = f"{folder}{os.sep}"
        return any(
            state.path == folder or state.path.startswith(below) for state in self._states.values()
        )

    def whole(self, series: Entry, *, captions: bool, flags: int) -> int:
        """Count the frames of a series if all are there.

        Args:
            series: Entry of the series.
            captions: Whether each frame needs a caption.
            flags: Flags of `Origin.read` that each frame needs.

        Returns:
            The number of frames; 0 if one is missing, or lacks something.
        """
        stale = self.stale(series)
        frames = [self._states[id] for id in self._series.get(series.path, ()) if id not in stale]
        if not any(frame.etag == series.etag + WHOLE for frame in frames):
            return 0
        lacking = any(
            (captions and not frame.has_caption) or flags & ~frame.read for frame in frames
        )
        return 0 if lacking else len(frames)

    def stale(self, series: Entry) -> set[str]:
        """Return the ids of the frames of an earlier version of a series."""
        etags = (series.etag, series.etag + WHOLE)
        return {
            id for id in self._series.get(series.path, ()) if self._states[id].etag not in etags
        }

    def lost(self, *, trust_empty: bool) -> list[str]:
        """Return the ids of the records whose files the sources have lost.

        Records in a folder that is missing, empty or a place of drives are spared with a warning,
        since a drive may not be mounted. `trust_empty` returns them as well, unless a folder cannot
        be read.
        """
        lost: list[str] = []
        spared: Counter[tuple[str, str]] = Counter()
        doubt_of = cache(doubt)
        doubtful = [source for source in self._sources if not source.saw_deletion]
        folders = filter(os.path.isdir, {place for one in doubtful for place in one.places() or ()})
        empty = Roots(() if trust_empty else empty_folders(folders, self._sources))
        for id, state in self._states.items():
            file = state.file
            if id in self._etags or file in self._films:
                continue
            losers = [source for source in self._sources if source.has_lost(file, state.etag)]
            found = None
            if losers and all(source in doubtful for source in losers):
                found = _spared(file, empty, doubt_of, trust_empty=trust_empty)
            if found is not None:
                spared[found] += 1
            elif losers:
                lost.append(id)
        for (folder, reason), count in spared.items():
            logger.warning(
                "%s paths in %s are missing: %s, so they stay in the collection%s",
                f"{count:,}",
                folder,
                reason,
                f" until `coca index {folder} --prune --yes`" if os.access(folder, os.R_OK) else "",
            )
        return lost


def _spared(
    file: str, empty: Roots, doubt_of: Callable[[str], str], *, trust_empty: bool
) -> tuple[str, str] | None:
    """Return the folder of a lost file whose drive may not be mounted, and why; None if none."""
    if folder := empty.above(file):
        return folder, "there is nothing to index in it"
    folder = nearest(file)
    if folder is None or folder == file:
        return None
    is_trusted = trust_empty and os.access(folder, os.R_OK)
    reason = doubt_of(folder)
    return (folder, reason) if reason and not is_trusted else None


def _few_places(sources: Sequence[ImageSource]) -> list[str] | None:
    """List the files and folders of the sources; None if they are unknown or too many."""
    if sum(len(source.entries()) for source in sources) > _MOST_ENTRIES:
        return None
    places: list[str] = []
    for source in sources:
        if (of_source := source.places()) is None:
            return None
        places += of_source
    return places if sum(map(_is_wide, places)) <= _MOST_FOLDERS else None


def _is_wide(place: str) -> bool:
    """Return whether records may be below a path: that of a folder, a tar or a video."""
    suffix = os.path.splitext(place)[1].lower()
    return suffix not in PHOTO_SUFFIXES or os.path.isdir(place)


def _at_or_below(place: str) -> str:
    """Build a filter for the records of a place; it may keep some of a place that begins so."""
    # No record has a path that is not valid Unicode.
    path = _SURROGATE.split(place)[0]
    return all_of(where(PATH, ">=", path), where(PATH, "<=", f"{path}\U0010ffff"))
