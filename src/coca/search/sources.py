"""Where pictures come from: places that tell what has changed without reading it.

Files are known here. Whatever else holds pictures, such as tars and tables, joins by the Protocol.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from coca.core.errors import DataError
from coca.search.pictures import Picture, Words, find_pictures, is_gone, read_words, stamp_of


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that can be read and holds a picture: a file, a member of a tar, a row."""

    path: str
    """Names it, the same in each run."""
    stamp: str
    """Changes when it does; known without reading it."""


@runtime_checkable
class PictureSource(Protocol):
    """Pictures that can be told apart and read one by one. Threads read several at once."""

    def entries(self) -> Sequence[Entry]:
        """Everything that is there, the same in each call."""
        ...

    def words(self, entry: Entry) -> Words | None:
        """What is said beside the picture; None where the stamp changes when the words do.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def read(self, entry: Entry) -> Picture:
        """The picture with its words.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether a path that is no entry, but was known by this stamp, came from here and is gone.

        To be sure of: what is merely out of reach is not lost.
        """
        ...


class FileSource:
    """Picture files, found in folders or named, with the words that lie beside them.

    Raises:
        DataError: A path does not exist.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        paths = list(paths)
        self._tops = [Path(path).absolute() for path in paths]
        self._entries = [Entry(str(file), stamp_of(file)) for file in find_pictures(paths)]

    def entries(self) -> Sequence[Entry]:
        """The files, sorted by their absolute paths."""
        return self._entries

    def words(self, entry: Entry) -> Words:
        """What `NAME.txt` and `NAME.json` say."""
        return read_words(Path(entry.path))

    def read(self, entry: Entry) -> Picture:
        """The file and its words."""
        words = self.words(entry)
        try:
            image = Path(entry.path).read_bytes()
        except OSError as error:
            raise DataError(
                f"{entry.path} cannot be read: {error.strerror}", reason="unreadable"
            ) from error
        return Picture(
            path=entry.path,
            image=image,
            caption=words.caption,
            metadata=words.metadata,
            stamp=entry.stamp,
        )

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether a file below one of the paths is gone."""
        return any(Path(path).is_relative_to(top) for top in self._tops) and is_gone(path)
