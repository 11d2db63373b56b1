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
from coca.core.files.formats import PHOTO_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES
from coca.core.files.local_files import Roots
from coca.search.ingest.sources import FileSource, ImageSource
from coca.workflows.collections.image_sources import (
    STORE_SUFFIXES,
    SourceUri,
    open_sources,
    resolve_uri,
)

logger = logging.getLogger(__name__)

SETTLE_S = 0.5
"""Quiet period before files are read, seconds: a file being copied is incomplete."""
_LONGEST_WAIT_S = 10.0
_AGAIN_S = 2.0
_IMAGES = PHOTO_SUFFIXES | {".tar"}
_TAKEN = _IMAGES | VIDEO_SUFFIXES

_Result = TypeVar("_Result")


def watch_folders(
    folders: Sequence[SourceUri],
    index: Callable[[Sequence[ImageSource]], _Result],
    *,
    frame_interval_s: float,
    settle_s: float = SETTLE_S,
) -> Iterator[_Result]:
    """Index folders once, then again after every change, until Ctrl-C.

    Ctrl-C ends it after the current indexing run. A run that the store refuses is repeated later.

    Yields:
        The result of each run, the first one included.
    """
    import watchfiles

    tops = [Path(os.path.abspath(folder.uri)) for folder in folders]
    roots = Roots(tops)
    waiting: set[Path] = set()
    with _stop_on_ctrl_c() as stop:
        changes = watchfiles.watch(
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
    """Provide an event that the first Ctrl-C sets; a second Ctrl-C interrupts at once."""
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


def check_watchable(uris: Sequence[SourceUri]) -> None:
    """Check that all URIs are local folders, since only those can be watched."""
    for uri in uris:
        if uri.kind != "folder":
            raise ConfigError(f"{uri.uri} cannot be watched: only local folders can")


def folders_of(sources: Iterable[ImageSource]) -> set[str]:
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
) -> list[ImageSource]:
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
    return [*sources, FileSource([], missing=lost, saw_deletion=True)] if lost else sources


def _resolve(path: str) -> SourceUri:
    """Resolve a changed path; a changed folder is searched for images, even if it has vectors."""
    return SourceUri(path, "folder") if os.path.isdir(path) else resolve_uri(path)


def _touched(changes: Iterable[tuple[object, str]], tops: Sequence[Path]) -> set[Path]:
    """Return the changed paths, without hidden files and SQLite files, which runs change."""
    touched = set()
    for _, name in changes:
        path = Path(os.path.abspath(name))
        below = next((path.relative_to(top) for top in tops if path.is_relative_to(top)), path)
        if not any(part.startswith(".") or part.endswith(STORE_SUFFIXES) for part in below.parts):
            touched.add(path)
    return touched
