"""Videos as series of images: a frame every few seconds, all of one video in one album."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from coca.core.absence import Roots
from coca.core.errors import DataError
from coca.core.formats import VIDEO_SUFFIXES
from coca.core.regular_files import check_regular
from coca.processing.video import read_frames
from coca.search.frame_paths import series_path, series_stamp
from coca.search.ingest.local_files import Picture, find_pictures, read_sidecars, stamp_of
from coca.search.ingest.sources import Entry

_SHORTER_PX = 720
"""Frames are kept no larger; no model reads more."""
_JPEG_QUALITY = 90


class VideoSource:
    """Video files, found in folders or named, with the words that lie beside them.

    What `NAME.txt` and `NAME.json` say counts for every frame but as its caption; there it would
    tell of what is not in the image, so it stands in the metadata as `video_caption`.

    Raises:
        DataError: A path does not exist.
    """

    def __init__(self, paths: Iterable[str | Path], *, every_s: float) -> None:
        paths = list(paths)
        self._every_s = every_s
        self._tops = {os.path.abspath(path) for path in paths}
        self._roots = Roots(self._tops)
        self._entries = [
            Entry(str(file), series_stamp(stamp_of(file), every_s))
            for file in find_pictures(paths, suffixes=VIDEO_SUFFIXES)
        ]

    def entries(self) -> Sequence[Entry]:
        """The files, sorted by their absolute paths."""
        return self._entries

    def roots(self) -> Sequence[str]:
        """The folders among the paths."""
        return sorted(filter(os.path.isdir, self._tops))

    def series(self, entry: Entry) -> Iterator[Picture]:
        """The frames of a video, as JPEG files; `DataError` if it is broken or has none."""
        annotation = read_sidecars(Path(entry.path))
        spoken = {"video_caption": annotation.caption} if annotation.caption else {}
        try:
            # A FIFO would wait for a writer for ever.
            changed = int(check_regular(entry.path).st_mtime)
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise DataError(
                f"{entry.path} cannot be read: {error.strerror}", reason=reason
            ) from error
        for frame in read_frames(entry.path, every_s=self._every_s, shorter_px=_SHORTER_PX):
            stream = io.BytesIO()
            Image.fromarray(frame.pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
            seconds = round(frame.time_s, 3)
            yield Picture(
                path=series_path(entry.path, seconds),
                image=stream.getvalue(),
                annotation=replace(
                    annotation,
                    caption="",
                    album=annotation.album or entry.path,
                    metadata={**annotation.metadata, **spoken, "seconds": seconds},
                ),
                changed=changed,
                stamp=entry.stamp,
            )

    def has_lost(self, path: str, stamp: str) -> bool:
        """Whether a file at or below one of the paths is gone."""
        return self._roots.has_lost(path)
