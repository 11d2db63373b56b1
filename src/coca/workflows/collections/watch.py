"""Folder watcher: index new, changed and deleted files as they change."""

import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TypeVar

from coca.core.annotations import SIDECAR_SUFFIXES, XMP_SUFFIX
from coca.core.errors import ConfigError, DataError, SearchError, StorageError
from coca.core.extras import require
from coca.core.files.formats import PHOTO_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES
from coca.core.files.local_files import Roots
from coca.search.ingest.sources import AnySource, Entry, SourceImage
from coca.workflows.collections.image_sources import FolderUri, SourceUri, open_sources, resolve_uri

logger = logging.getLogger(__name__)

SETTLE_S = 0.5
"""Quiet period before files are read, seconds: a file being copied is incomplete."""
_LONGEST_WAIT_S = 10.0
_AGAIN_S = 2.0
_IMAGES = PHOTO_SUFFIXES | {".tar"}
_TAKEN = _IMAGES | VIDEO_SUFFIXES

_Result = TypeVar("_Result")


def watch_folders(
    folders: Sequence[FolderUri],
    index: Callable[[Sequence[AnySource]], _Result],
    *,
    frame_interval_s: float,
    settle_s: float = SETTLE_S,
) -> Iterator[_Result]:
    """Index folders once, then again after every change, until Ctrl-C.

    Ctrl-C ends it after the current indexing run. Between runs the collection may be closed, so
    that other processes can search it on Milvus Lite. If another process holds the lock, the run is
    retried later.

    Yields:
        The result of each run, the first one included.
    """
    tops = [Path(os.path.abspath(folder.uri)) for folder in folders]
    roots = Roots(tops)
    waiting: set[Path] = set()
    with _stop_on_ctrl_c() as stop:
        changes = require("watchfiles", extra="search").watch(
            *tops,
            watch_filter=None,
            step=int(settle_s * 1000),
            debounce=int(_LONGEST_WAIT_S * 1000),
            # The watcher starts before the first run, so that no change during it is missed.
            rust_timeout=int(_AGAIN_S * 1000),
            yield_on_timeout=True,
            stop_event=stop,
        )
        waiting |= _touched(next(changes, ()), tops)
        sources = open_sources(folders, frame_interval_s=frame_interval_s)
        image_folders = folders_of(sources)
        yield index(sources)
        for batch in changes:
            if stop.is_set():
                return
            waiting |= _touched(batch, tops)
            try:
                sources = changed_sources(
                    waiting, image_folders, roots, frame_interval_s=frame_interval_s
                )
                image_folders |= folders_of(sources)
                if not sources:
                    waiting.clear()
                    continue
                result = index(sources)
            except (SearchError, StorageError) as error:
                logger.warning("%s; %s changes wait", error, f"{len(waiting):,}")
                continue
            except DataError as error:
                if error.reason != "missing":
                    raise
                # Deleted just now; the next batch of changes reports it.
                continue
            waiting.clear()
            yield result


@contextmanager
def _stop_on_ctrl_c() -> Iterator[threading.Event]:
    """Provide an event that the first Ctrl-C sets; a second Ctrl-C interrupts at once.

    Milvus Lite can swallow an interrupt that is raised while it opens or closes a folder.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def watched_folders(uris: Sequence[SourceUri]) -> list[FolderUri]:
    """Check that all URIs can be watched, and return them."""
    for uri in uris:
        if not isinstance(uri, FolderUri):
            raise ConfigError(f"{uri.uri} cannot be watched: only local folders can")
    return [uri for uri in uris if isinstance(uri, FolderUri)]


def folders_of(sources: Iterable[AnySource]) -> set[str]:
    """Return all folders that contain entries of these sources, and their parent folders."""
    folders: set[str] = set()
    for source in sources:
        for entry in source.entries():
            folder = os.path.dirname(entry.path)
            while folder not in folders:
                folders.add(folder)
                folder = os.path.dirname(folder)
    return folders


def changed_sources(
    paths: Iterable[Path], image_folders: Container[str], roots: Roots, *, frame_interval_s: float
) -> list[AnySource]:
    """Open the sources of changed paths: existing files, and deleted ones."""
    # Without `av`, videos are skipped, as in folders.
    read = _IMAGES if importlib.util.find_spec("av") is None else _TAKEN
    there: set[str] = set()
    vanished: set[str] = set()
    for path in paths:
        if path.suffix in (*SIDECAR_SUFFIXES, XMP_SUFFIX) or path.suffix.lower() in RAW_SUFFIXES:
            # A sidecar or raw file changed, so its images are indexed again: `NAME.xmp` or
            # `NAME.jpg.xmp`.
            there.update(
                str(file)
                for file in path.parent.glob(f"{escape(path.stem)}*")
                if file.suffix.lower() in read and path.stem in (file.stem, file.name)
            )
        if path.is_dir() or (path.suffix.lower() in read and path.exists()):
            there.add(str(path))
        elif roots.above(str(path)) == str(path):
            logger.warning(
                "%s is missing: its drive may be unmounted, so its records are kept; restart when "
                "it is back",
                path,
            )
        elif path.suffix.lower() in _TAKEN or str(path) in image_folders:
            vanished.add(str(path))
    tars = {path for path in there if path.lower().endswith(".tar")}
    resolved = [_resolve(path) for path in sorted(there - tars)]
    sources = open_sources(resolved, frame_interval_s=frame_interval_s)
    for tar in sorted(tars):
        try:
            sources += open_sources([_resolve(tar)])
        except DataError as error:
            # Probably incomplete; its completion is another change.
            logger.warning("%s", error)
    lost = sorted(filter(roots.has_lost, vanished))
    return [*sources, VanishedSource(lost, image_folders, roots)] if lost else sources


def _resolve(path: str) -> SourceUri:
    """Resolve a changed path; a changed folder is searched for images, even if it has vectors."""
    return FolderUri(path) if os.path.isdir(path) else resolve_uri(path)


class VanishedSource:
    """Deleted files and folders, as a source without entries."""

    def __init__(self, paths: Sequence[str], image_folders: Container[str], roots: Roots) -> None:
        """Create a source of deleted `paths` below the watched `roots`."""
        self._paths = paths
        self._removed = Roots(paths)
        self._roots = roots
        self._image_folders = image_folders

    def entries(self) -> Sequence[Entry]:
        """Return no entries."""
        return []

    def names(self) -> Sequence[str] | None:
        """Return the paths if all were images; None for folders, tars and videos."""
        named = all(
            Path(path).suffix.lower() in PHOTO_SUFFIXES and path not in self._image_folders
            for path in self._paths
        )
        return self._paths if named else None

    def series(self, entry: Entry) -> Iterator[SourceImage]:
        """Never called, since there are no entries."""
        raise AssertionError(f"{entry.path} has vanished")

    def has_lost(self, path: str, etag: str) -> bool:
        """Check whether the path is one of the deleted paths or below one."""
        top = self._removed.above(path)
        return top is not None and self._roots.has_lost(top)


def _touched(changes: Iterable[tuple[object, str]], tops: Sequence[Path]) -> set[Path]:
    """Return the changed paths, without hidden files and `.db` folders, which runs change."""
    touched = set()
    for _, name in changes:
        path = Path(os.path.abspath(name))
        below = next((path.relative_to(top) for top in tops if path.is_relative_to(top)), path)
        if not any(part.startswith(".") or part.endswith(".db") for part in below.parts):
            touched.add(path)
    return touched
