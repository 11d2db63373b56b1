"""Image sources, which detect changes by etags without reading the images.

This module has the source of files. Others, such as tars and tables, implement the Protocol.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from coca.core.annotations import SIDECAR_SUFFIXES
from coca.core.files.absence import Roots
from coca.core.files.local_files import file_etag, modified_at
from coca.core.files.regular_files import check_within
from coca.search.ingest.sources.images import (
    Annotation,
    SourceImage,
    find_files,
    read_annotation,
)
from coca.search.query.originals import read_file


@dataclass(frozen=True, slots=True)
class Entry:
    """Readable entry of a source with an image: a file, a member of a tar, a row."""

    path: str
    """Path of the entry, the same in each run."""
    etag: str
    """Etag: changes with the content, and is known without reading it. It contains no `|`. It
    begins with eight hex digits and a colon, unique to the source, where another source may have
    the same path."""


@runtime_checkable
class ItemSource(Protocol):
    """Source of images that are listed and read one by one; thread-safe."""

    def entries(self) -> Sequence[Entry]:
        """List all entries, the same in each call."""
        ...

    def annotation(self, entry: Entry) -> Annotation | None:
        """Read the metadata of an image; None where the etag covers the metadata.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def read(self, entry: Entry) -> SourceImage:
        """Read the image with its metadata.

        Raises:
            DataError: It cannot be read.
        """
        ...

    def has_lost(self, path: str, etag: str) -> bool:
        """Return whether a path of this etag came from this source and no longer exists.

        True only if certain: unreachable files are not lost.
        """
        ...


@runtime_checkable
class SeriesSource(Protocol):
    """Source of entries with many ordered images, such as videos.

    A frame has the path `series_path(ENTRY, SECONDS)` and the entry's etag, made by `series_etag`.
    """

    def entries(self) -> Sequence[Entry]:
        """List all entries, the same in each call."""
        ...

    def series(self, entry: Entry) -> Iterator[SourceImage]:
        """Iterate over the images of an entry, lazily.

        Raises:
            DataError: It cannot be read completely, or contains no image.
        """
        ...

    def has_lost(self, path: str, etag: str) -> bool:
        """Return whether an entry is lost; as in `ItemSource`."""
        ...


@runtime_checkable
class NamedSource(Protocol):
    """Source that lists its possible paths, so that only those are checked."""

    def names(self) -> Sequence[str] | None:
        """List every path that it has or has lost; None where only the collection knows."""
        ...


@runtime_checkable
class RootedSource(Protocol):
    """Source that searches folders recursively.

    An empty folder may be the mount point of an unmounted drive.
    """

    def roots(self) -> Sequence[str]:
        """List the folders."""
        ...


AnySource: TypeAlias = ItemSource | SeriesSource


def empty_folders(folders: Iterable[str], sources: Iterable[AnySource]) -> list[str]:
    """List the folders in which no source has an entry."""
    paths = sorted(entry.path for source in sources for entry in source.entries())
    empty = []
    for folder in folders:
        top = os.path.join(os.path.abspath(folder), "")
        after = bisect_left(paths, top)
        if not "".join(paths[after : after + 1]).startswith(top):
            empty.append(folder)
    return empty


def check_links(file: str, folders: Sequence[str | Path]) -> None:
    """Check that an image or video and its sidecar files are not links to files elsewhere.

    Args:
        file: Path of the image or video.
        folders: Folders that the files must be in; empty: anywhere.

    Raises:
        DataError: A file is outside of the folders (reason `"unreadable"`).
    """
    stem = os.path.splitext(file)[0]
    for path in (file, *(stem + suffix for suffix in SIDECAR_SUFFIXES)):
        check_within(path, folders)


class FileSource:
    """Source of image files, found in folders or given by path, with sidecar metadata.

    Args:
        paths: Files and folders.
        within: Folders that images and sidecar files must be in after links are resolved; others
            are unreadable. Empty: links may lead anywhere.
        missing: Files and folders that no longer exist, which have lost their files.

    Attributes:
        missing: Absolute paths of `missing`.

    Raises:
        DataError: A path does not exist.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        missing: Iterable[str | Path] = (),
        within: Sequence[str | Path] = (),
    ) -> None:
        paths = list(paths)
        self._within = within
        self.missing = [os.path.abspath(path) for path in missing]
        self._roots = Roots(paths, missing=self.missing)
        self._tops = {os.path.abspath(path) for path in (*paths, *self.missing)}
        self._entries = [Entry(str(file), file_etag(file)) for file in find_files(paths)]

    def entries(self) -> Sequence[Entry]:
        """List the files, sorted by absolute path."""
        return self._entries

    def roots(self) -> Sequence[str]:
        """List the folders among the paths."""
        return sorted(filter(os.path.isdir, self._tops))

    def names(self) -> Sequence[str] | None:
        """List the files; None if a folder is searched."""
        paths = [entry.path for entry in self._entries]
        return paths if self._tops == set(paths) else None

    def annotation(self, entry: Entry) -> Annotation:
        """Read the sidecar files; the folder is the album unless they give one."""
        check_links(entry.path, self._within)
        annotation = read_annotation(entry.path)
        return (
            annotation
            if annotation.album
            else replace(annotation, album=os.path.dirname(entry.path))
        )

    def read(self, entry: Entry) -> SourceImage:
        """Read the file and its metadata."""
        annotation = self.annotation(entry)
        return SourceImage(
            path=entry.path,
            data=read_file(entry.path),
            annotation=annotation,
            modified_at=modified_at(entry.path),
            etag=entry.etag,
        )

    def has_lost(self, path: str, etag: str) -> bool:
        """Return whether a file at or below one of the paths is missing."""
        return self._roots.has_lost(path)
