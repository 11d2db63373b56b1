"""Sources of moments: frames of videos and parts of audio, each file a series of one album."""

import io
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from coca.core.errors import DataError
from coca.core.files.formats import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from coca.core.files.local_files import Roots, check_regular, file_etag
from coca.processing.video import read_frames
from coca.runtime.audio_file import MAX_SHOWN_S, audio_windows
from coca.runtime.base_predictor import BasePredictor
from coca.search.ingest.sources import (
    AnySource,
    Entry,
    SourceImage,
    check_links,
    find_files,
    read_annotation,
)
from coca.search.records import series_etag, series_path

logger = logging.getLogger(__name__)

_SHORTER_PX = 720
"""Maximum shorter side of a stored frame, pixels; no model reads more."""
_JPEG_QUALITY = 90


def live_photo_of(video: str | Path) -> str:
    """Find the photo of a Live Photo by its motion, `NAME.mov` next to it; empty if it is none."""
    stem, suffix = os.path.splitext(video)
    suffixes = (".heic", ".jpg", ".jpeg") if suffix.lower() == ".mov" else ()
    photos = (stem + variant for photo in suffixes for variant in (photo, photo.upper()))
    return next(filter(os.path.exists, photos), "")


class MomentSource(ABC):
    """Files of folders and paths, with their sidecar texts; each is a series of moments.

    The metadata of `NAME.json` apply to every moment. The caption of the file may describe content
    outside a moment, so it is stored as the metadata `caption_name`, not as the moment's caption.
    """

    suffixes: frozenset[str]
    caption_name: str

    def __init__(
        self, paths: Iterable[str | Path], interval_s: float, within: Sequence[str | Path]
    ) -> None:
        self._paths = list(paths)
        self._within = within
        self._interval_s = interval_s
        self._tops = {os.path.abspath(path) for path in self._paths}
        self._roots = Roots(self._tops)
        self._entries = [
            Entry(str(file), series_etag(file_etag(file), interval_s))
            for file in find_files(self._paths, suffixes=self.suffixes, warn=False)
            if not live_photo_of(file)
        ]

    def entries(self) -> Sequence[Entry]:
        """Return one entry per file, sorted by absolute path."""
        return self._entries

    def roots(self) -> Sequence[str]:
        """Return the folders among the paths."""
        return sorted(filter(os.path.isdir, self._tops))

    def series(self, entry: Entry) -> Iterator[SourceImage]:
        """Yield the moments of a file."""
        check_links(entry.path, self._within)
        annotation = read_annotation(entry.path)
        caption = {self.caption_name: annotation.caption} if annotation.caption else {}
        try:
            # Opening a FIFO would block until a writer appears.
            modified_at = int(check_regular(entry.path).st_mtime)
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise DataError(
                f"{entry.path} cannot be read: {error.strerror}", reason=reason
            ) from error
        for time_s, data in self._moments(entry.path):
            seconds = round(time_s, 3)
            yield SourceImage(
                path=series_path(entry.path, seconds),
                data=data,
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

    @abstractmethod
    def _moments(self, path: str) -> Iterator[tuple[float, bytes]]:
        """Yield the start of each moment, in seconds, and its encoded content."""


class VideoSource(MomentSource):
    """Videos, without those of Live Photos: one JPEG image per interval."""

    suffixes = VIDEO_SUFFIXES
    caption_name = "video_caption"

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        frame_interval_s: float,
        within: Sequence[str | Path] = (),
    ) -> None:
        super().__init__(paths, frame_interval_s, within)

    def _moments(self, path: str) -> Iterator[tuple[float, bytes]]:
        frames = read_frames(path, frame_interval_s=self._interval_s, shorter_px=_SHORTER_PX)
        for frame in frames:
            stream = io.BytesIO()
            Image.fromarray(frame.pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
            yield frame.time_s, stream.getvalue()


class AudioSource(MomentSource):
    """Audio: one WAV file per window of `audio_s` seconds, as long as the model hears."""

    suffixes = AUDIO_SUFFIXES
    caption_name = "audio_caption"

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        audio_s: float = MAX_SHOWN_S,
        within: Sequence[str | Path] = (),
    ) -> None:
        super().__init__(paths, audio_s, within)

    def heard_for(self, audio_s: float) -> "AudioSource":
        """Return the same files in windows of another length."""
        return AudioSource(self._paths, audio_s=audio_s, within=self._within)

    def _moments(self, path: str) -> Iterator[tuple[float, bytes]]:
        return audio_windows(path, path, self._interval_s)


def heard_by(predictor: BasePredictor, sources: Sequence[AnySource]) -> list[AnySource]:
    """Cut audio into windows as long as the model hears; skip it, if the model reads images."""
    audio_s = predictor.image_settings.audio_s
    kept: list[AnySource] = []
    for source in sources:
        if not isinstance(source, AudioSource):
            kept.append(source)
        elif audio_s is not None:
            kept.append(source.heard_for(audio_s))
        else:
            logger.warning(
                "%s audio files are skipped: %s reads images; index them with a model that hears",
                f"{len(source.entries()):,}",
                predictor.source,
            )
    return kept
