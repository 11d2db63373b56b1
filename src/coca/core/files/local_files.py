"""Local files: search folders, open regular files safely, and detect deleted files.

Check here before removing records of missing files, since a failing `stat` has other causes: a
member of a tar is not a file, and a link may point to a drive that is not mounted.
"""

import errno
import logging
import os
import re
import shlex
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from coca.core.errors import ConfigError, DataError

_MOST_WORDS = 8
"""Words of a path that a shell split at its spaces."""

# Detection of deleted files, as opposed to archive members, broken links and unmounted drives.


def nearest(path: str, *, root: str = "") -> str | None:
    """Return the longest existing prefix of a path: itself, or a file or folder above it.

    A broken link counts as existing.

    Returns:
        None if no part exists up to the root, or on a permission error.
    """
    here = path
    while True:
        try:
            os.lstat(here or os.curdir)
        except (FileNotFoundError, NotADirectoryError):
            above = os.path.dirname(here)
            if here in (root, above):
                return None
            here = above
        except (OSError, ValueError):
            return None
        else:
            return here


def is_gone(path: str, *, root: str = "") -> bool:
    """Return whether a path is missing: its nearest existing parent is a folder.

    A path inside an existing file, such as a member of a tar, is not missing. Neither is a path
    behind a broken link. `doubt` finds drives that may not be mounted.
    """
    found = nearest(path, root=root)
    return found is not None and found != path and os.path.isdir(found or os.curdir)


def doubt(folder: str) -> str:
    """Return why a file that is missing in an existing folder may still exist; empty if it is gone.

    A mount point without its drive is an empty folder. Where drives have their mount points, such
    as `/media/NAME`, the mount point of an unmounted drive is usually removed.
    """
    try:
        with os.scandir(folder or os.curdir) as entries:
            names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            is_empty = not names and not os.listdir(folder or os.curdir)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if is_empty:
        return "it is empty, as if its drive were not mounted"
    if any(map(os.path.ismount, names)):
        return "drives are mounted in it, and one may not be mounted now"
    return ""


class Roots:
    """The set of root folders and files that were given for indexing.

    The cost of a lookup depends on the depth of the path, not on the number of roots.

    Args:
        paths: The roots.
        missing: Roots whose files count as lost although the root itself is missing.
    """

    def __init__(self, paths: Iterable[str | Path], *, missing: Iterable[str | Path] = ()) -> None:
        self._missing = {os.path.abspath(path) for path in missing}
        self._tops = {os.path.abspath(path) for path in paths} | self._missing

    def above(self, path: str) -> str | None:
        """Return the nearest root that equals or contains a path; None if there is none."""
        here = path
        while here not in self._tops:
            above = os.path.dirname(here)
            if above == here:
                return None
            here = above
        return here

    def has_lost(self, path: str) -> bool:
        """Return whether a path is missing while its root still exists."""
        top = self.above(path)
        if top is None:
            return False
        if top in self._missing:
            return is_gone(path)
        return is_gone(path, root=os.path.dirname(path) if path == top else top)


# Safe opening of regular files: FIFOs, which may block forever, and devices are rejected.


MAX_IMAGE_BYTES = 512 << 20
"""Largest encoded image, bytes. Of JPEG files, 400 million pixels take about 100 MB."""

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str | Path) -> int:
    """Open a regular file, or a link to one, and return its descriptor.

    Raises:
        OSError: The file is missing, not readable, or not a regular file. The latter is neither
            opened nor waited for.
    """
    _check(os.stat(path), path)
    # If the file is replaced meanwhile, O_NONBLOCK keeps a FIFO from blocking.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        _check(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: str | Path) -> os.stat_result:
    """Return the `stat` result of a regular file, or of the target of a link.

    Raises:
        OSError: The file is missing, or not a regular file.
    """
    status = os.stat(path)
    _check(status, path)
    return status


def read_regular(path: str | Path, *, max_bytes: int | None = None) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: The file is missing, not readable, too large, or not a regular file.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if max_bytes is None:
            return file.read()
        content = file.read(size + 1) if size <= max_bytes else b""
        if len(content) != size:
            # The file grows, or is a file of `/proc`, whose reported size is 0.
            content += file.read(max(max_bytes + 1 - len(content), 0))
    if size > max_bytes or len(content) > max_bytes:
        large = max(size, len(content))
        raise OSError(
            errno.EFBIG, f"it has {large:,} bytes, and at most {max_bytes:,} are read", str(path)
        )
    return content


def read_file(path: str, etag: str = "") -> bytes:
    """Read the bytes of a local image file; the etag is ignored."""
    try:
        return read_regular(path, max_bytes=MAX_IMAGE_BYTES)
    except (OSError, ValueError) as error:
        large = isinstance(error, OSError) and error.errno == errno.EFBIG
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            reason="too_large" if large else "unreadable",
        ) from error


def _check(status: os.stat_result, path: str | Path) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {what}, not a regular file", str(path))


# Search folders for files, and detect changes of files by size and modification time.


logger = logging.getLogger(__name__)


def walk_files(
    folder: str | Path, suffixes: Collection[str] | None = None, *, warn: bool = True
) -> Iterator[str]:
    """Find all files below a folder, in a reproducible order: each folder before its subfolders.

    Names that begin with a dot are skipped, both files and folders: thumbnails, metadata files of
    desktops, version control. Links to files are files, also broken links, so that reading them
    reports the error. Links to folders are not followed. A folder that cannot be read is logged and
    skipped.

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


def size_in_etag(etag: str) -> int | None:
    """Return the size of a file from its `file_etag`, in bytes; None for another etag."""
    found = re.fullmatch(r"(\d+)-\d+", etag)
    return int(found[1]) if found else None


def modified_at(path: str | Path) -> int:
    """Return a file's modification time, in seconds since 1970; 0 if it is not a local file."""
    try:
        return int(os.stat(path).st_mtime)
    except (OSError, ValueError):
        return 0


def check_spaces(paths: Sequence[str]) -> None:
    """Check that no path was split at its spaces by a shell, also in `field=path`.

    Raises:
        ConfigError: Consecutive paths, the first of which is missing, form one that exists.
    """
    for first, path in enumerate(paths):
        begin = path.rpartition("=")[2]
        if os.path.exists(path) or (begin != path and os.path.exists(begin)):
            continue
        for last in range(first + 2, min(first + _MOST_WORDS, len(paths)) + 1):
            whole = " ".join([begin, *paths[first + 1 : last]])
            if os.path.exists(whole):
                raise ConfigError(f"{whole} has spaces: quote it, as {shlex.quote(whole)}")


def _warn(error: OSError) -> None:
    logger.warning("folder %s is left out: %s", error.filename, error.strerror)
