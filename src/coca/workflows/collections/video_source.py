"""Video source of indexing: frames at a fixed interval, one album per video."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from coca.core.errors import DataError
from coca.core.files.absence import Roots
from coca.core.files.formats import VIDEO_SUFFIXES
from coca.core.files.local_files import file_etag
from coca.core.files.regular_files import check_regular
from coca.processing.video import read_frames
from coca.search.frame_paths import series_etag, series_path
from coca.search.ingest.sources.base import Entry, check_links
from coca.search.ingest.sources.images import SourceImage, find_files, read_annotation

_SHORTER_PX = 720
"""Maximum shorter side of a stored frame, pixels; no model reads more."""
_JPEG_QUALITY = 90


class VideoSource:
    """Video files of folders and paths, with their sidecar texts.

    The metadata of `NAME.json` apply to every frame. The caption of the video may describe content
    outside a frame, so it is stored as the metadata `video_caption` and not as the frame's caption.

    Args:
        paths: Files and folders.
        frame_interval_s: Interval between frames, in seconds.
        within: Folders that the files must be in; see `FileSource`.

    Raises:
        DataError: A path does not exist.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        frame_interval_s: float,
        within: Sequence[str | Path] = (),
    ) -> None:
        paths = list(paths)
        self._within = within
        self._frame_interval_s = frame_interval_s
        self._tops = {os.path.abspath(path) for path in paths}
        self._roots = Roots(self._tops)
        self._entries = [
            Entry(str(file), series_etag(file_etag(file), frame_interval_s))
            for file in find_files(paths, suffixes=VIDEO_SUFFIXES, warn=False)
        ]

    def entries(self) -> Sequence[Entry]:
        """Return one entry per file, sorted by absolute path."""
        return self._entries

    def roots(self) -> Sequence[str]:
        """Return the folders among the paths."""
        return sorted(filter(os.path.isdir, self._tops))

    def series(self, entry: Entry) -> Iterator[SourceImage]:
        """Yield the frames of a video as JPEG images.

        Raises:
            DataError: The video is broken, has no frame, or is outside of the allowed folders.
        """
        check_links(entry.path, self._within)
        annotation = read_annotation(entry.path)
        caption = {"video_caption": annotation.caption} if annotation.caption else {}
        try:
            # Opening a FIFO would block until a writer appears.
            modified_at = int(check_regular(entry.path).st_mtime)
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise DataError(
                f"{entry.path} cannot be read: {error.strerror}", reason=reason
            ) from error
        for frame in read_frames(
            entry.path, frame_interval_s=self._frame_interval_s, shorter_px=_SHORTER_PX
        ):
            stream = io.BytesIO()
            Image.fromarray(frame.pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
            seconds = round(frame.time_s, 3)
            yield SourceImage(
                path=series_path(entry.path, seconds),
                data=stream.getvalue(),
                annotation=replace(
                    annotation,
                    caption="",
                    album=annotation.album or entry.path,
                    metadata={**annotation.metadata, **caption, "seconds": seconds},
                ),
                modified_at=modified_at,
                etag=entry.etag,
            )

    def has_lost(self, path: str, etag: str) -> bool:
        """Check whether a file at or below one of the paths no longer exists."""
        return self._roots.has_lost(path)
