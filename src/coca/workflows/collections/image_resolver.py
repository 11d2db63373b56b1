"""Image resolver: read images by the paths under which they were indexed."""

import re
from pathlib import Path

from coca.core.errors import DataError
from coca.core.files.local_files import MAX_IMAGE_BYTES, read_file
from coca.data.storage.storage import Storage, is_remote
from coca.search.ingest.sample_source import SampleSource
from coca.search.ingest.sources import WHOLE, Entry
from coca.search.ingest.video_source import VideoSource
from coca.search.records import frame_interval_of, series_of
from coca.workflows.collections.image_sources import (
    TABLE_SUFFIXES,
    open_sources,
    resolve_uri,
)

_WITHIN = re.compile(rf"(?:{'|'.join(map(re.escape, ('.tar', *TABLE_SUFFIXES)))})(?=/)", re.I)


class ImageResolver:
    """Reads files, URLs, members of tars, rows of tables and zips, and frames of videos.

    The last tar, table or video stays open, so reading paths in sorted order is fastest.
    """

    def __init__(self) -> None:
        self._storage = Storage()
        self._open = ""
        self._source: SampleSource | None = None
        self._entries: dict[str, Entry] = {}
        self._video = ("", "")
        self._frames: dict[str, bytes] = {}

    def __call__(self, path: str, etag: str) -> bytes:
        """Read an encoded image."""
        if series_of(path, etag) != path:
            return self._frame(path, etag.removesuffix(WHOLE))
        if container := _container_of(path):
            return self._member(container, path)
        if is_remote(path):
            return self._storage.read_all(path, max_bytes=MAX_IMAGE_BYTES)
        return read_file(path)

    def _member(self, container: str, path: str) -> bytes:
        if self._open != container:
            self._open, self._source, self._entries = "", None, {}
            (source,) = open_sources([resolve_uri(container)])
            assert isinstance(source, SampleSource)
            self._entries = {entry.path: entry for entry in source.entries()}
            self._open, self._source = container, source
        assert self._source is not None
        if path not in self._entries:
            raise DataError(
                f"{container} has no {path[len(container) + 1 :]} any more", reason="missing"
            )
        return next(self._source.read(self._entries[path])).data

    def _frame(self, path: str, etag: str) -> bytes:
        file = series_of(path, etag)
        if self._video != (file, etag):
            interval_s = frame_interval_of(etag) or 0.0
            source = VideoSource([file], frame_interval_s=interval_s)
            # None of a video that became the motion of a Live Photo.
            entry = next(iter(source.entries()), None)
            if entry is None or entry.etag != etag:
                raise DataError(f"{file} has changed since it was indexed", reason="changed")
            self._frames = {frame.path: frame.data for frame in source.read(entry)}
            self._video = (file, etag)
        if path not in self._frames:
            raise DataError(f"{file} has no such frame any more: {path}", reason="missing")
        return self._frames[path]


def is_within(path: str, etag: str) -> bool:
    """Check whether a path is inside a file: a member of a tar or zip, a row, or a frame."""
    return series_of(path, etag) != path or _container_of(path) is not None


def _container_of(path: str) -> str | None:
    """Return the tar, table or zip that contains a path; None for a plain file."""
    if not is_remote(path) and Path(path).is_file():
        return None
    candidates = [path[: match.end()] for match in _WITHIN.finditer(path)]
    return next((file for file in candidates if is_remote(file) or Path(file).is_file()), None)
