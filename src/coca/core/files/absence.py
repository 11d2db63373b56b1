"""Detection of deleted files, as opposed to archive members, broken links and unmounted drives.

Check here before removing records of missing files, since a failing `stat` has other causes: a
member of a tar is no file, and a link may point to a drive that is not mounted.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def nearest(path: str, *, root: str = "") -> str | None:
    """Return the longest existing prefix of a path: itself, or a file or folder above it.

    A broken link counts as existing.

    Args:
        path: Path of a file or folder.
        root: Folder at which the search ends; its parents are not checked.

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

    Args:
        path: Path of a file or folder.
        root: A folder above it; if that is missing as well, its drive may not be mounted.
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
