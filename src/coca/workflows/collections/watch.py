"""Follows folders: what is new, changed or gone in them reaches the collection in a moment."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from coca.core.absence import Roots
from coca.core.errors import ConfigError, DataError, SearchError
from coca.core.extras import require
from coca.core.formats import VIDEO_SUFFIXES
from coca.core.heif import PHOTO_SUFFIXES
from coca.search.ingest.local_files import Picture
from coca.search.ingest.sources import AnySource, Entry
from coca.workflows.collections.image_sources import sources_of
from coca.workflows.collections.index import FillResult

logger = logging.getLogger(__name__)

SETTLE_S = 0.5
"""So long nothing may change before files are read: a copy in the making is no image yet."""
_LONGEST_WAIT_S = 10.0
_AGAIN_S = 2.0
_TAKEN = PHOTO_SUFFIXES | VIDEO_SUFFIXES | {".tar"}
_SIDECARS = frozenset({".txt", ".json"})


def watch_folders(
    folders: Sequence[str | Path],
    fill: Callable[[Sequence[AnySource]], FillResult],
    *,
    every_s: float,
    settle_s: float = SETTLE_S,
) -> Iterator[FillResult]:
    """Fill once, and again whenever something changes; ends with Ctrl-C, after a filling's end.

    Between fillings the collection may be closed, so that others can search a folder of Milvus
    Lite meanwhile; where one of them holds it just then, the filling waits for its turn.

    Args:
        folders: To follow, with all below them.
        fill: Puts sources into the collection and removes what they have lost.
        every_s: Seconds from one frame of a video to the next; 0 leaves videos out.
        settle_s: How long a change must be past before it is acted upon.

    Yields:
        What each filling did, beginning with the first one.

    Raises:
        ConfigError: A place is no folder.
        MissingExtraError: The extra `search` is not installed.
    """
    check_watched(folders)
    tops = [Path(os.path.abspath(folder)) for folder in folders]
    roots = Roots(tops)
    waiting: set[Path] = set()
    with _stop_on_ctrl_c() as stop:
        changes = require("watchfiles", extra="search").watch(
            *folders,
            watch_filter=None,
            step=int(settle_s * 1000),
            debounce=int(_LONGEST_WAIT_S * 1000),
            # Returns at once, so that nothing that changes during the first filling is missed.
            rust_timeout=int(_AGAIN_S * 1000),
            yield_on_timeout=True,
            stop_event=stop,
        )
        waiting |= _touched(next(changes, ()), tops)
        sources: list[AnySource] = [*sources_of(folders, every_s=every_s)]
        holding = folders_of(sources)
        yield fill(sources)
        for batch in changes:
            if stop.is_set():
                return
            waiting |= _touched(batch, tops)
            try:
                sources = changed_sources(waiting, holding, roots, every_s=every_s)
                holding |= folders_of(sources)
                if not sources:
                    waiting.clear()
                    continue
                result = fill(sources)
            except SearchError as error:
                logger.warning("%s; %s changes wait", error, f"{len(waiting):,}")
                continue
            except DataError as error:
                if error.reason != "missing":
                    raise
                # It vanished in this very moment; the next look will see that.
                continue
            waiting.clear()
            yield result


@contextmanager
def _stop_on_ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once.

    An interrupt that is raised while Milvus Lite opens or closes a folder can be lost in there.
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


def check_watched(folders: Sequence[str | Path]) -> None:
    """Refuse what cannot be followed.

    Raises:
        ConfigError: A place is no folder.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(f"{folder} cannot be watched: only folders of this machine can")


def folders_of(sources: Iterable[AnySource]) -> set[str]:
    """All folders in which entries of these sources stand, and the folders of those folders."""
    found: set[str] = set()
    for source in sources:
        for entry in source.entries():
            folder = os.path.dirname(entry.path)
            while folder not in found:
                found.add(folder)
                folder = os.path.dirname(folder)
    return found


def changed_sources(
    paths: Iterable[Path], holding: Container[str], roots: Roots, *, every_s: float
) -> list[AnySource]:
    """The sources of paths that were touched: what is there, and what vanished.

    Args:
        paths: Files and folders.
        holding: Folders that have held images; any other that vanishes is none's loss.
        roots: The folders that are followed; one that vanishes may be a drive.
        every_s: Seconds from one frame of a video to the next; 0 leaves videos out.
    """
    there: set[str] = set()
    vanished: set[str] = set()
    for path in paths:
        if path.suffix in _SIDECARS:
            # The words of an image changed.
            there.update(
                str(one)
                for one in path.parent.glob(f"{escape(path.stem)}.*")
                if one.suffix.lower() in _TAKEN
            )
        elif path.is_dir() or (path.suffix.lower() in _TAKEN and path.exists()):
            there.add(str(path))
        elif roots.above(str(path)) == str(path):
            logger.warning(
                "%s is gone: its drive may not be mounted, so what the collection holds of it "
                "stays; when it is back, start again",
                path,
            )
        elif path.suffix.lower() in _TAKEN or str(path) in holding:
            vanished.add(str(path))
    tars = {path for path in there if path.lower().endswith(".tar")}
    sources: list[AnySource] = [*sources_of(sorted(there - tars), every_s=every_s)]
    for tar in sorted(tars):
        try:
            sources += sources_of([tar])
        except DataError as error:
            # Most likely in the making; when it is whole, it has changed once more.
            logger.warning("%s", error)
    lost = sorted(filter(roots.has_lost, vanished))
    return [*sources, VanishedSource(lost, holding, roots)] if lost else sources


class VanishedSource:
    """Places that were removed, with all that was in them."""

    def __init__(self, paths: Sequence[str], holding: Container[str], roots: Roots) -> None:
        """Take the places, what were folders among them, and the roots that they were in."""
        self._paths = paths
        self._removed = Roots(paths)
        self._roots = roots
        self._holding = holding

    def entries(self) -> Sequence[Entry]:
        """Nothing is there."""
        return []

    def names(self) -> Sequence[str] | None:
        """The places, if they were images; what was in a folder, tar or video is not known."""
        named = all(
            Path(path).suffix.lower() in PHOTO_SUFFIXES and path not in self._holding
            for path in self._paths
        )
        return self._paths if named else None

    def series(self, entry: Entry) -> Iterator[Picture]:
        """Never asked for."""
        raise AssertionError(f"{entry.path} has vanished")

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether the path was one of these places, or stood in one."""
        top = self._removed.above(path)
        return top is not None and self._roots.has_lost(top)


def _touched(changes: Iterable[tuple[object, str]], tops: Sequence[Path]) -> set[Path]:
    """The changed paths, but for hidden ones, and a collection, which each filling changes."""
    found = set()
    for _, name in changes:
        path = Path(os.path.abspath(name))
        below = next((path.relative_to(top) for top in tops if path.is_relative_to(top)), path)
        if not any(part.startswith(".") or part.endswith(".db") for part in below.parts):
            found.add(path)
    return found
