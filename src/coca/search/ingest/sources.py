"""Image sources, which detect changes by etags without reading the images; the source of files."""

import logging
import math
import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from coca.core.annotations import read_sidecars, read_xmp_sidecars, sidecar_paths
from coca.core.errors import DataError
from coca.core.files.formats import HEIF_SUFFIXES, PHOTO_SUFFIXES, RAW_SUFFIXES, has_heif, has_raw
from coca.core.files.local_files import (
    Roots,
    file_etag,
    modified_at,
    read_file,
    walk_files,
)
from coca.core.installation import pip_install
from coca.search.ingest.photo_metadata import MAX_XMP_BYTES, Annotation, read_xmp
from coca.search.records import RAW_FILE, record_id, source_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """Encoded image to be indexed, with its metadata."""

    path: str
    """Path of a file, URL, or member of a shard; identifies the image."""
    data: bytes = field(repr=False)
    """Encoded image file."""
    annotation: Annotation = field(default_factory=Annotation)
    """Metadata of the image."""
    modified_at: int = 0
    """Modification time of the file, in seconds since 1970, for images without a capture time."""
    changed_at: float = math.inf
    """Time of the last change of the image and its metadata, in seconds since 1970; infinite if
    unknown. An edit after it stays."""
    etag: str = ""
    """Etag: changes with the file, known without reading it; empty if the source has none."""


_EXTRAS = (
    ("HEIF images", HEIF_SUFFIXES, has_heif, "heif"),
    ("raw photos", RAW_SUFFIXES, has_raw, "raw"),
)
"""Images that an extra reads."""


def find_files(
    paths: Iterable[str | Path], suffixes: frozenset[str] = PHOTO_SUFFIXES, *, warn: bool = True
) -> dict[str, str]:
    """Find files by suffix below folders, plus the given files, sorted by absolute path.

    Folders are searched as by `walk_files`. A raw photo next to a photo of the same name is left
    out. Without the extras `heif` and `raw`, HEIF images and raw photos of folders are skipped with
    a warning. `warn` logs folders that cannot be read.

    Returns:
        Absolute path -> its raw file, or an empty text.
    """
    found: set[str] = set()
    named: set[str] = set()
    for path in paths:
        top = os.path.abspath(path)
        if not os.path.isdir(top):
            if not os.path.exists(top):
                raise DataError(f"{path} does not exist", reason="missing")
            # Irregular files are refused when they are read, as in folders.
            named.add(top)
        else:
            found.update(walk_files(top, suffixes, warn=warn))
    suffixes_of = {path: os.path.splitext(path)[1].lower() for path in found | named}
    photos = {path for path, suffix in suffixes_of.items() if suffix not in RAW_SUFFIXES}
    raw: dict[str, list[str]] = {}
    for path in sorted(suffixes_of.keys() - photos):
        raw.setdefault(os.path.splitext(path)[0], []).append(path)
    for stem in {os.path.splitext(path)[0] for path in named & photos} - raw.keys():
        names = (stem + end for suffix in RAW_SUFFIXES for end in (suffix, suffix.upper()))
        raw[stem] = sorted(filter(os.path.exists, names))
    paired = {path: "".join(raw.pop(os.path.splitext(path)[0], [])[:1]) for path in sorted(photos)}
    paired |= {path: "" for paths in raw.values() for path in paths}
    for kind, some, is_there, extra in _EXTRAS:
        unread = () if is_there() else paired.keys() - named
        left_out = [path for path in unread if suffixes_of[path] in some]
        for path in left_out:
            del paired[path]
        if left_out:
            logger.warning(
                "%s %s are left out; what reads them: %s",
                *(f"{len(left_out):,}", kind, pip_install(extra)),
            )
    return dict(sorted(paired.items()))


def read_annotation(image: str | Path) -> Annotation:
    """Read the sidecar files of an image: `NAME.txt` and `NAME.json`, completed by XMP."""
    sidecars = read_sidecars(image)
    annotation = Annotation.of(sidecars.captions, sidecars.fields)
    for packet in read_xmp_sidecars(image, max_bytes=MAX_XMP_BYTES):
        annotation = annotation.over(read_xmp(packet))
    return annotation


def last_change(file: str) -> float:
    """Return the last modification time of an image or video and its sidecar files.

    Returns:
        Seconds since 1970; infinity if the file is not local.
    """
    times = []
    for path in (file, *sidecar_paths(file)):
        with suppress(OSError, ValueError):  # ValueError: a NUL in the name
            times.append(os.stat(path).st_mtime)
    return max(times, default=math.inf)


@dataclass(frozen=True, slots=True)
class Entry:
    """Readable entry of a source with an image: a file, a member of a tar, a row."""

    path: str
    """Path of the entry, the same in each run."""
    etag: str
    """Etag: changes with the content, and is known without reading it. It begins with eight hex
    digits and a colon, unique to the source, where another source may have the same path."""

    @property
    def id(self) -> str:
        """Id of the record of an entry with one image."""
        return record_id(self.path, source_of(self.etag))


WHOLE = "+"
"""Suffix of the etag of a series' last frame, which is written after all other frames."""


class ImageSource(ABC):
    """Source of images to index, whose entries are listed; thread-safe.

    If `is_series`, an entry has many ordered images, such as the frames of a video. A frame has the
    path `series_path(ENTRY, SECONDS)` and the entry's etag, made by `series_etag`; `ingest` adds
    `WHOLE` to that of the last frame.
    """

    is_series: ClassVar[bool] = False
    saw_deletion: bool = True
    """Whether what it has lost was certainly deleted; otherwise an empty folder may be the mount
    point of an unmounted drive."""

    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """List all entries, the same in each call."""

    @abstractmethod
    def read(self, entry: Entry) -> Iterator[SourceImage]:
        """Iterate lazily over the images of an entry with their metadata; one if no series.

        Raises:
            DataError: It cannot be read completely, or contains no image.
        """

    def annotation(self, entry: Entry) -> Annotation | None:
        """Read the metadata of an image; None where the etag covers the metadata.

        Raises:
            DataError: It cannot be read.
        """
        return None

    def has_lost(self, path: str, etag: str) -> bool:
        """Return whether a path of this etag came from this source and no longer exists.

        True only if certain: unreachable files are not lost.
        """
        return False

    def places(self) -> Sequence[str] | None:
        """List the files and folders at or below which it has or has lost images; None: unknown."""
        return None


def empty_folders(folders: Iterable[str], sources: Iterable[ImageSource]) -> list[str]:
    """List the folders in which no source has an entry."""
    paths = sorted(entry.path for source in sources for entry in source.entries())
    empty = []
    for folder in folders:
        top = os.path.join(os.path.abspath(folder), "")
        after = bisect_left(paths, top)
        if not "".join(paths[after : after + 1]).startswith(top):
            empty.append(folder)
    return empty


class FileSource(ImageSource):
    """Source of image files, found in folders or given by path, with sidecar metadata.

    Args:
        paths: Files and folders.
        missing: Files and folders that no longer exist, which have lost their files.
        saw_deletion: Whether `missing` files were seen being deleted; see `ImageSource`.

    Attributes:
        missing: Absolute paths of `missing`.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        missing: Iterable[str | Path] = (),
        saw_deletion: bool = False,
    ) -> None:
        paths = list(paths)
        self.saw_deletion = saw_deletion
        self.missing = [os.path.abspath(path) for path in missing]
        self._roots = Roots(paths, missing=self.missing)
        self._tops = {os.path.abspath(path) for path in (*paths, *self.missing)}
        self._raw_of = self._find(paths)
        self._raw = frozenset(filter(None, self._raw_of.values()))
        self._entries = [Entry(path, self._etag(path)) for path in self._raw_of]

    def entries(self) -> Sequence[Entry]:
        """List the files, sorted by absolute path."""
        return self._entries

    def places(self) -> Sequence[str]:
        """List the files and folders, and the raw files that belong to a photo."""
        return sorted(self._tops | self._raw)

    def has_lost(self, path: str, etag: str) -> bool:
        """Return whether a file at or below one of the paths is missing, or part of a photo."""
        return path in self._raw or self._roots.has_lost(path)

    def annotation(self, entry: Entry) -> Annotation:
        """Read the sidecar files; the folder is the album unless they give one."""
        annotation = read_annotation(entry.path)
        if raw := self._raw_of.get(entry.path):
            metadata = {RAW_FILE: os.path.basename(raw), **annotation.metadata}
            annotation = replace(annotation, metadata=metadata)
        return replace(annotation, album=annotation.album or os.path.dirname(entry.path))

    def read(self, entry: Entry) -> Iterator[SourceImage]:
        """Read the file and its metadata."""
        # Before both are read, so that no later change counts as earlier.
        changed_at = last_change(entry.path)
        yield SourceImage(
            path=entry.path,
            data=read_file(entry.path),
            annotation=self.annotation(entry),
            modified_at=modified_at(entry.path),
            changed_at=changed_at,
            etag=entry.etag,
        )

    def _find(self, paths: Iterable[str | Path]) -> Mapping[str, str]:
        """Find the files: absolute path -> its raw file, or an empty text."""
        return find_files(paths)

    def _etag(self, path: str) -> str:
        return file_etag(path)
