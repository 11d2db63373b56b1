"""Encoded images of sources, with their annotations."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from coca.core.annotations import read_sidecars
from coca.core.errors import DataError
from coca.core.files.heif import HEIF_SUFFIXES, PHOTO_SUFFIXES, has_heif
from coca.core.files.local_files import walk_files

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Annotation:
    """Caption, metadata, tags, album and time of an image."""

    caption: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    album: str = ""
    time: int = 0
    """Time of capture, in seconds since 1970; 0 if unknown."""

    @classmethod
    def of(
        cls, captions: Sequence[str], fields: Mapping[str, Any], *, tags: Iterable[str] = ()
    ) -> "Annotation":
        """Split fields into tags, album, time and other metadata.

        Args:
            captions: The first is the caption; of several, all are in the metadata as `captions`.
            fields: `tags` (a list, or comma-separated text), `album` and `time` (seconds since
                1970, or ISO 8601 such as `2024-05-31T18:30:00+02:00`) are used if valid. Everything
                else is metadata.
            tags: Further tags.
        """
        rest = dict(fields)
        if len(captions) > 1:
            rest["captions"] = list(captions)
        none: tuple[str, ...] = ()
        found = (*tags, *_take(rest, "tags", _as_tags, none))
        album = _take(rest, "album", lambda value: value if isinstance(value, str) else None, "")
        time = _take(rest, "time", _as_time, 0)
        caption = captions[0] if captions else ""
        return cls(caption, rest, tuple(dict.fromkeys(found)), album, time)


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
    etag: str = ""
    """Etag: changes with the file, known without reading it; empty if the source has none."""


def find_files(
    paths: Iterable[str | Path],
    *,
    suffixes: frozenset[str] = PHOTO_SUFFIXES,
    warn: bool = True,
) -> list[Path]:
    """Find files by suffix below folders, plus the given files, sorted by absolute path.

    Folders are searched as by `walk_files`. Without the extra `heif`, HEIF images of folders are
    skipped with a warning. `warn` logs folders that cannot be read.

    Raises:
        DataError: A path does not exist.
    """
    found: set[str] = set()
    unread = frozenset() if has_heif() else HEIF_SUFFIXES & suffixes
    left_out = 0
    for path in paths:
        top = os.path.abspath(path)
        if not os.path.isdir(top):
            if not os.path.exists(top):
                raise DataError(f"there is no file or folder {path}", reason="missing")
            # Irregular files are refused when they are read, as in folders.
            found.add(top)
            continue
        files = set(walk_files(top, suffixes, warn=warn))
        unreadable = {file for file in files if os.path.splitext(file)[1].lower() in unread}
        found |= files - unreadable
        left_out += len(unreadable)
    if left_out:
        logger.warning(
            "%s HEIF images are left out: pip install 'coca-captioners[heif]' brings what reads "
            "them",
            f"{left_out:,}",
        )
    return [Path(path) for path in sorted(found)]


def read_annotation(image: str | Path) -> Annotation:
    """Read the sidecar files of an image as its annotation, see `read_sidecars`.

    Raises:
        DataError: A sidecar file is damaged.
    """
    sidecars = read_sidecars(image)
    return Annotation.of(sidecars.captions, sidecars.fields)


def _take(fields: dict[str, Any], name: str, read: Callable[[Any], T | None], default: T) -> T:
    """Remove and return a field if it is valid, else return the default."""
    value = read(fields[name]) if name in fields else None
    if value is None:
        return default
    del fields[name]
    return value


def _as_tags(value: Any) -> tuple[str, ...] | None:
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        return None
    return tuple(one.strip() for one in texts if one.strip())


def _as_time(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**62:
        return None
    return int(value)
