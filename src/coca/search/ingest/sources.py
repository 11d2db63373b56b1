"""Where images come from: places that tell what has changed without reading it.

Files are known here. Whatever else holds images, such as tars and tables, joins by the Protocol.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from coca.core.absence import Roots
from coca.search.ingest.local_files import (
    Picture,
    Words,
    changed_at,
    find_pictures,
    read_words,
    stamp_of,
)
from coca.search.query.originals import read_file

"""Ends the stamp of a series, but for marks of the ledger."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that can be read and holds an image: a file, a member of a tar, a row."""

    path: str
    """Names it, the same in each run."""
    stamp: str
    """Changes when it does; known without reading it. It holds no `|`, and begins with eight hex
    digits and a colon, the source's own, where another source may hold the same path."""


@runtime_checkable
class PictureSource(Protocol):
    """Pictures that can be told apart and read one by one. Threads read several at once."""

    def entries(self) -> Sequence[Entry]:
        """Everything that is there, the same in each call."""
        ...

    def words(self, entry: Entry) -> Words | None:
        """What is said beside the image; None where the stamp changes when the words do.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def read(self, entry: Entry) -> Picture:
        """The image with its words.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether a path that is no entry, but was known by this stamp, came from here and is gone.

        To be sure of: what is merely out of reach is not lost.
        """
        ...


@runtime_checkable
class SeriesSource(Protocol):
    """Entries that each hold many images in order, such as videos.

    An image of a series has the path `series_path(ENTRY, SECONDS)` and the entry's stamp, which is
    made by `series_stamp`.
    """

    def entries(self) -> Sequence[Entry]:
        """Everything that is there, the same in each call."""
        ...

    def series(self, entry: Entry) -> Iterator[Picture]:
        """The images of an entry, each read when it is asked for.

        Raises:
            DataError: It cannot be read, or not to its end; or it holds no image.
        """
        ...

    def has_lost(self, path: str, stamp: str) -> bool:
        """As for `PictureSource`, for the path of an entry."""
        ...


@runtime_checkable
class NamedSource(Protocol):
    """A source that can say which paths may have come from it, so that no others are looked at."""

    def names(self) -> Sequence[str] | None:
        """Every path that it holds or has lost; None where only the collection tells."""
        ...


@runtime_checkable
class RootedSource(Protocol):
    """A source that searches folders through.

    A folder in which nothing is left may be where a drive is mounted at other times.
    """

    def roots(self) -> Sequence[str]:
        """The folders."""
        ...


AnySource: TypeAlias = PictureSource | SeriesSource


def empty_folders(places: Iterable[str | Path], sources: Iterable[AnySource]) -> list[str | Path]:
    """The folders among the places in which no source has an entry."""
    paths = sorted(entry.path for source in sources for entry in source.entries())
    empty = []
    for place in places:
        top = os.path.join(os.path.abspath(place), "")
        after = bisect_left(paths, top)
        if os.path.isdir(top) and not "".join(paths[after : after + 1]).startswith(top):
            empty.append(place)
    return empty


class FileSource:
    """Picture files, found in folders or named, with the words that lie beside them.

    Raises:
        DataError: A path does not exist.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        paths = list(paths)
        self._tops = {os.path.abspath(path) for path in paths}
        self._roots = Roots(self._tops)
        self._entries = [Entry(str(file), stamp_of(file)) for file in find_pictures(paths)]

    def entries(self) -> Sequence[Entry]:
        """The files, sorted by their absolute paths."""
        return self._entries

    def roots(self) -> Sequence[str]:
        """The folders among the paths."""
        return sorted(filter(os.path.isdir, self._tops))

    def names(self) -> Sequence[str] | None:
        """The files, if no folder is searched through."""
        paths = [entry.path for entry in self._entries]
        return paths if self._tops == set(paths) else None

    def words(self, entry: Entry) -> Words:
        """What `NAME.txt` and `NAME.json` say; the folder is the album unless they name one."""
        words = read_words(Path(entry.path))
        return words if words.album else replace(words, album=os.path.dirname(entry.path))

    def read(self, entry: Entry) -> Picture:
        """The file and its words."""
        words = self.words(entry)
        return Picture(
            path=entry.path,
            image=read_file(entry.path),
            words=words,
            changed=changed_at(entry.path),
            stamp=entry.stamp,
        )

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether a file at or below one of the paths is gone."""
        return self._roots.has_lost(path)
