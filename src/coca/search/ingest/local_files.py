"""Pictures on their way into a collection: found in folders, with the words that lie beside them.

`cat.jpg` may have `cat.txt`, whose first line is its caption, and `cat.json`, an object with
`caption` or `captions`, `tags`, `album`, `time`, and anything else as metadata.
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
from coca.core.regular_files import read_regular

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_SIDECAR_BYTES = 16 << 20
"""A collection takes 64 KiB of metadata; the rest is room for layout."""


@dataclass(frozen=True)
class Words:
    """What is said beside an image."""

    caption: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    album: str = ""
    time: int = 0
    """When it was taken, seconds since 1970; 0 if nothing is said."""

    @classmethod
    def of(cls, caption: str, fields: Mapping[str, Any], *, tags: Iterable[str] = ()) -> "Words":
        """Tell tags, album and time from the rest of the fields.

        Args:
            caption: The image's.
            fields: `tags` (a list, or words between commas), `album` and `time` (seconds since
                1970, or as in `2024-05-31T18:30:00+02:00`) count as such if they look so, as
                everything else does as metadata.
            tags: Further ones.
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
    """An image to be put into a collection."""

    path: str
    """Where it lies: a file, an address, or a member of a shard. It names the image."""
    image: bytes = field(repr=False)
    """The encoded file."""
    words: Words = field(default_factory=Words)
    """What is said beside it."""
    changed: int = 0
    """Time of the file, seconds since 1970, for images that say nothing of their own."""
    stamp: str = ""
    """Changes when the file does, without reading it; empty if the source has no such thing."""


def find_pictures(
    paths: Iterable[str | Path], *, suffixes: frozenset[str] = PHOTO_SUFFIXES
) -> list[Path]:
    """The files of a kind below the given folders, and the given files, sorted by absolute path.

    Names that begin with a dot are left out: thumbnails and shadow files of desktops. Where the
    extra `heif` is missing, HEIF images of folders are left out with a warning.

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
            # What is no regular file is refused when it is read, as in folders.
            found.add(top)
            continue
        for folder, subfolders, names in os.walk(top, onerror=_warn):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            kinds = {name: os.path.splitext(name)[1].lower() for name in names if name[0] != "."}
            found.update(
                os.path.join(folder, name)
                for name, kind in kinds.items()
                if kind in suffixes and kind not in unread
            )
            left_out += sum(kind in unread for kind in kinds.values())
    if left_out:
        logger.warning(
            "%s HEIF images are left out: pip install 'coca-captioners[heif]' brings what reads "
            "them",
            f"{left_out:,}",
        )
    return [Path(path) for path in sorted(found)]


def stamp_of(path: str | Path) -> str:
    """Size and time of change, by which a changed file is told without reading it.

    It is empty for a file that cannot be looked at: reading it will tell why.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def changed_at(path: str | Path) -> int:
    """When a file changed, in seconds since 1970; 0 for what is no file of this machine."""
    try:
        return int(os.stat(path).st_mtime)
    except (OSError, ValueError):
        return 0


def read_words(picture: Path) -> Words:
    """What `NAME.txt` and `NAME.json` beside the image say; the text file's caption goes first.

    Of several captions the first is the caption, and all stand in the metadata as `captions`.

    Raises:
        DataError: A file cannot be read, or the JSON is no object or has captions of another kind.
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
    return Words.of(caption, metadata)


def _take(fields: dict[str, Any], name: str, read: Callable[[Any], T | None], default: T) -> T:
    """What a field says if it can be read so; then it is taken out."""
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


def _warn(error: OSError) -> None:
    logger.warning("folder %s is left out: %s", error.filename, error.strerror)


def _section(sidecar: dict[str, Any], path: Path) -> dict[str, Any]:
    """The object `metadata` inside a sidecar, which counts as if it stood outside."""
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
    # A text may stand under both names.
    return list(dict.fromkeys(one.strip() for one in captions if one.strip()))


def _read(path: Path) -> str | None:
    try:
        return read_regular(path, max_bytes=_MAX_SIDECAR_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {problem}", reason="bad_sidecar") from error
