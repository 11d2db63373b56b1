"""Local image files with sidecar metadata.

Sidecars of `cat.jpg` are `cat.txt`, whose first line is the caption, and `cat.json`, an object with
`caption` or `captions`, `tags`, `album`, `time`, and any other metadata.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from coca.core.errors import DataError
from coca.core.heif import HEIF_SUFFIXES, PHOTO_SUFFIXES, has_heif
from coca.core.local_files import walk_files
from coca.core.regular_files import read_regular

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_SIDECAR_BYTES = 16 << 20
"""A collection takes 64 KiB of metadata; the limit leaves room for whitespace."""


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
        cls, caption: str, fields: Mapping[str, Any], *, tags: Iterable[str] = ()
    ) -> "Annotation":
        """Split fields into tags, album, time and other metadata.

        Args:
            caption: Caption of the image.
            fields: `tags` (a list, or comma-separated text), `album` and `time` (seconds since
                1970, or ISO 8601 such as `2024-05-31T18:30:00+02:00`) are used if valid. Everything
                else is metadata.
            tags: Further tags.
        """
        rest = dict(fields)
        none: tuple[str, ...] = ()
        found = (*tags, *_take(rest, "tags", _as_tags, none))
        album = _take(rest, "album", lambda value: value if isinstance(value, str) else None, "")
        return cls(
            caption, rest, tuple(dict.fromkeys(found)), album, _take(rest, "time", _as_time, 0)
        )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Encoded image to be indexed, with its metadata."""

    path: str
    """Path of a file, URL, or member of a shard; identifies the image."""
    image: bytes = field(repr=False)
    """Encoded image file."""
    annotation: Annotation = field(default_factory=Annotation)
    """Metadata of the image."""
    changed: int = 0
    """Modification time of the file, in seconds since 1970, for images without a capture time."""
    stamp: str = ""
    """Etag: changes with the file, known without reading it; empty if the source has none."""


def find_pictures(
    paths: Iterable[str | Path], *, suffixes: frozenset[str] = PHOTO_SUFFIXES
) -> list[Path]:
    """Find files by suffix below folders, plus the given files, sorted by absolute path.

    Folders are searched as by `walk_files`. Without the extra `heif`, HEIF images of folders are
    skipped with a warning.

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
        files = set(walk_files(top, suffixes))
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


def read_sidecars(picture: Path) -> Annotation:
    """Read the sidecars `NAME.txt` and `NAME.json`; the text file's caption takes precedence.

    Of several captions the first is the caption, and all are in the metadata as `captions`.

    Raises:
        DataError: A file cannot be read, or the JSON is not an object or has invalid captions.
    """
    caption, metadata = "", {}
    if (text := _read(picture.with_suffix(".txt"))) is not None:
        caption = next((line.strip() for line in text.splitlines() if line.strip()), "")
    sidecar = picture.with_suffix(".json")
    if (text := _read(sidecar)) is not None:
        try:
            metadata = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{sidecar} is not JSON: {error}", reason="bad_sidecar") from error
        if not isinstance(metadata, dict):
            raise DataError(f"{sidecar} must hold a JSON object", reason="bad_sidecar")
        metadata |= _section(metadata, sidecar)
        captions = _captions(metadata, sidecar)
        if caption:
            captions = [caption, *(one for one in captions if one != caption)]
        elif captions:
            caption = captions[0]
        if len(captions) > 1:
            metadata["captions"] = captions
    return Annotation.of(caption, metadata)


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


def _section(sidecar: dict[str, Any], path: Path) -> dict[str, Any]:
    """Remove and return the object `metadata` of a sidecar, which is merged into the top level."""
    section = sidecar.pop("metadata", {})
    if not isinstance(section, dict):
        raise DataError(f"{path}: `metadata` must be an object", reason="bad_sidecar")
    return section


def _captions(sidecar: dict[str, Any], path: Path) -> list[str]:
    captions = sidecar.pop("captions", None) or []
    if (caption := sidecar.pop("caption", None)) is not None:
        captions = [caption, *captions] if isinstance(captions, list) else captions
    if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
        raise DataError(
            f"{path}: `caption` must be a text and `captions` a list of texts",
            reason="bad_sidecar",
        )
    # A text may be under both names.
    return list(dict.fromkeys(one.strip() for one in captions if one.strip()))


def _read(path: Path) -> str | None:
    try:
        return read_regular(path, max_bytes=_MAX_SIDECAR_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {problem}", reason="bad_sidecar") from error
