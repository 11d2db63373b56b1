"""Search folders for files, and detect changes of files by size and modification time."""

import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


def walk_files(
    folder: str | Path, suffixes: Collection[str] | None = None, *, warn: bool = True
) -> Iterator[str]:
    """Find all files below a folder, in a reproducible order: each folder before its subfolders.

    Names that begin with a dot are skipped, both files and folders: thumbnails, metadata files of
    desktops, version control. Links to files are files, also broken links, so that reading them
    reports the error. Links to folders are not followed. A folder that cannot be read is logged and
    skipped.

    Args:
        folder: The topmost folder; it may be hidden or a link itself.
        suffixes: Only files with these suffixes, in lower case with the dot. None: all files.
        warn: Log the folders that cannot be read.

    Yields:
        Paths that begin with `folder`.
    """
    for here, subfolders, names in os.walk(folder, onerror=_warn if warn else None):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            if suffixes is None or os.path.splitext(name)[1].lower() in suffixes:
                yield os.path.join(here, name)


def file_etag(path: str | Path) -> str:
    """Compute the etag of a file from its size and modification time, without reading it.

    It is empty for a URL and for an inaccessible file: reading it reports the reason.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def modified_at(path: str | Path) -> int:
    """Return a file's modification time, in seconds since 1970; 0 if it is not a local file."""
    try:
        return int(os.stat(path).st_mtime)
    except (OSError, ValueError):
        return 0


def _warn(error: OSError) -> None:
    logger.warning("folder %s is left out: %s", error.filename, error.strerror)
