"""Which files are gone for sure, and which are in an archive, behind a link, or on a drive.

Whoever removes records of files that are gone asks here first, since a `stat` that fails has other
causes: a member of a tar has no file of its own, a link may lead to a drive that is not mounted.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def nearest(path: str, *, root: str = "") -> str | None:
    """Return the longest part of a path that exists: itself, or a file or folder above it.

    A link that leads nowhere exists.

    Args:
        path: Of a file or folder.
        root: Where to end: nothing above this folder is looked at.

    Returns:
        None where nothing exists down to the root, or where the system does not let us look.
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
    """Tell whether a file is gone for sure: the nearest part of its path that exists is a folder.

    A path inside a file that exists, such as a member of a tar, is not gone, and nor is one behind
    a link that leads nowhere.

    Args:
        path: Of a file or folder.
        root: A folder above it; if it is gone as well, its drive may not be mounted.
    """
    found = nearest(path, root=root)
    return found is not None and found != path and os.path.isdir(found or os.curdir)


class Roots:
    """The folders to search through, and the files, that somebody has named.

    The time that a question takes grows with the depth of its path and not with their number.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self._tops = {os.path.abspath(path) for path in paths}

    def above(self, path: str) -> str | None:
        """Return the nearest root that a path is or is in; None if there is no such root."""
        here = path
        while here not in self._tops:
            above = os.path.dirname(here)
            if above == here:
                return None
            here = above
        return here

    def has_lost(self, path: str) -> bool:
        """Tell whether a path is gone for sure while the root that it was in is still there."""
        top = self.above(path)
        if top is None:
            return False
        return is_gone(path, root=os.path.dirname(path) if path == top else top)
