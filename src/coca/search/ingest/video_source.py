"""Source of video frames: each video is a series of images in one album."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from coca.core.errors import DataError
from coca.core.files.formats import VIDEO_SUFFIXES
from coca.core.files.local_files import check_regular
from coca.processing.video import read_frames
from coca.search.ingest.sources import (
    Entry,
    FileSource,
    SourceImage,
    find_files,
    last_change,
    read_annotation,
)
from coca.search.records import SECONDS, series_etag, series_path

_SHORTER_PX = 720
"""Maximum shorter side of a stored frame, pixels; no model reads more."""
_JPEG_QUALITY = 90


def live_photo_of(video: str | Path) -> str:
    """Find the photo of a Live Photo by its motion, `NAME.mov` next to it; empty if it is none."""
    stem, suffix = os.path.splitext(video)
    suffixes = (".heic", ".jpg", ".jpeg") if suffix.lower() == ".mov" else ()
    photos = (stem + variant for photo in suffixes for variant in (photo, photo.upper()))
    return next(filter(os.path.exists, photos), "")


class VideoSource(FileSource):
    """Videos of folders and paths, without those of Live Photos: one JPEG image per interval.

    The metadata of `NAME.json` apply to every frame. The caption of the file may describe content
    outside a frame, so it is stored as the metadata `video_caption`, not as the frame's caption.
    """

    is_series = True

    def __init__(self, paths: Iterable[str | Path], *, frame_interval_s: float) -> None:
        self._interval_s = frame_interval_s
        super().__init__(paths)

    def read(self, entry: Entry) -> Iterator[SourceImage]:
        """Yield the frames of a file."""
        changed_at = last_change(entry.path)
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
        frames = read_frames(entry.path, frame_interval_s=self._interval_s, shorter_px=_SHORTER_PX)
        for frame in frames:
            seconds, stream = round(frame.time_s, 3), io.BytesIO()
            Image.fromarray(frame.pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
            yield SourceImage(
                path=series_path(entry.path, seconds),
                data=stream.getvalue(),
                annotation=replace(
                    annotation,
                    caption="",
                    album=annotation.album or entry.path,
                    metadata={**annotation.metadata, **caption, SECONDS: seconds},
                ),
                modified_at=modified_at,
                changed_at=changed_at,
                etag=entry.etag,
            )

    def _find(self, paths: Iterable[str | Path]) -> Mapping[str, str]:
        # A raw photo of the same name is not a part of the video.
        found = find_files(paths, VIDEO_SUFFIXES, warn=False)
        return {file: "" for file in found if not live_photo_of(file)}

    def _etag(self, path: str) -> str:
        return series_etag(super()._etag(path), self._interval_s)
