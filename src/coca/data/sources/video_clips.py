"""Video sources: clips, strips of frames, and folders of videos by class."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveInt

from coca.core.errors import DataError
from coca.core.files.formats import VIDEO_SUFFIXES
from coca.core.files.local_files import MAX_IMAGE_BYTES, walk_files
from coca.data.sample import Sample
from coca.data.sources.annotated import (
    AnnotatedSample,
    AnnotatedSource,
    AnnotationsConfig,
    SplitAnnotationsConfig,
)
from coca.data.sources.source import Source, SourceConfig, register_source, single_path
from coca.processing.video import FRAME_SUFFIXES, as_file, clip_frames, cut_strip, spread

# Video clips as samples: the first frame is `image`, the later frames are `others`.


class ClipsConfig(SourceConfig):
    """Settings of videos and frame folders."""

    has_frames: ClassVar[bool] = True

    frame_px: PositiveInt = 576
    """Larger frames are resized so that their shorter side has this many pixels."""


class ListedClipsConfig(ClipsConfig, AnnotationsConfig):
    """Settings of a list of clips; the kind is given."""


class SplitClipsConfig(ClipsConfig, SplitAnnotationsConfig):
    """Settings of a list of clips with splits; the kind is given."""


class ClipSource(AnnotatedSource):
    """Source over a list of clips: entries whose file is a video or a folder of frames."""

    def __init__(
        self,
        clips: Sequence[AnnotatedSample | DataError],
        *,
        config: ClipsConfig,
        origin: bytes = b"",
    ) -> None:
        """Combine the clips with the settings; `origin` is the content of their list."""
        super().__init__(clips, images="", fingerprint="")
        self._frames = config.frames
        self._frame_px = config.frame_px
        digest = hashlib.sha256(origin + f"{config.frames} {config.frame_px}".encode())
        for row, clip in enumerate(clips):
            path = "" if isinstance(clip, DataError) else clip.file
            digest.update(f"{self.key(row)}\0{path}\0".encode("utf-8", "surrogateescape"))
        self.fingerprint = digest.hexdigest()[:16]
        """Hash of keys, paths and text of the clips, and of the frame settings."""

    def read(self, row: int) -> Sample:
        """Read the sample with its frames; `DataError` if the video is missing or damaged."""
        clip = self._entry(row)
        frames = clip_frames(clip.file, self._frames, shorter_px=self._frame_px)
        return clip.sample(
            [
                self._storage.read_all(str(one), max_bytes=MAX_IMAGE_BYTES)
                if isinstance(one, Path)
                else as_file(one)
                for one in frames
            ]
        )


class ClipFolder:
    """Lookup of the videos and frame folders below a folder, by name.

    Hidden files and folders are skipped. A folder with images is one clip.
    """

    def __init__(self, root: str) -> None:
        if not os.path.isdir(root):
            raise DataError(f"the folder of the videos, {root}, is missing", reason="missing")
        self._root = root
        self.paths: list[str] = _clips_below(root)
        """Relative paths of the clips, sorted."""
        self._named: dict[str, list[str]] = {}
        for path in self.paths:
            self._named.setdefault(_stem(path), []).append(path)

    def find(self, name: str) -> str:
        """Return the path of a clip by its name, with or without folders and suffix."""
        found = self._named.get(_stem(name), [])
        if len(found) > 1:
            end = f"/{_bare(name)}"
            found = [path for path in found if f"/{_bare(path)}".endswith(end)] or found
        if len(found) == 1:
            return os.path.join(self._root, found[0])
        if not found:
            raise DataError(
                f"no video or folder of frames in {self._root} is called {_stem(name)}",
                reason="missing",
            )
        raise DataError(
            f"{len(found)} clips in {self._root} are called {_stem(name)}, such as {found[0]} and "
            f"{found[1]}",
            reason="ambiguous",
        )


def _clips_below(root: str) -> list[str]:
    files = [
        os.path.relpath(path, root) for path in walk_files(root, VIDEO_SUFFIXES | FRAME_SUFFIXES)
    ]
    videos = {path for path in files if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES}
    folders = {os.path.dirname(path) for path in files if path not in videos} - {""}
    return sorted(path.replace(os.sep, "/") for path in videos | folders)


def _bare(path: str) -> str:
    """Remove the suffix of a video; other dots belong to the name."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES else path


def _stem(path: str) -> str:
    return _bare(path.rpartition("/")[2])


# Frame strips: images that contain the frames of a video side by side, split on read.


class StripSource(Source):
    """Wrapper of a source whose images are frame strips."""

    has_metadata = True

    def __init__(self, source: Source, strip: int, frames: int) -> None:
        self._source = source
        self._strip = strip
        self._frames = frames
        self.block_size = source.block_size
        digest = hashlib.sha256(f"{source.fingerprint} {strip} {frames}".encode())
        self.fingerprint = digest.hexdigest()[:16]
        """Hash of the strips' fingerprint and of the frame settings."""

    def __len__(self) -> int:
        return len(self._source)

    def key(self, row: int) -> str:
        """Return the key of the strip."""
        return self._source.key(row)

    def etag(self, row: int) -> str:
        """Return the etag of the strip; empty if its source has none."""
        return self._source.etag(row)

    def read_metadata(self, row: int) -> Sample:
        """Read the sample without its frames; `DataError` if it cannot be read."""
        return self._source.read_metadata(row)

    def read(self, row: int) -> Sample:
        """Read the sample with its frames; `DataError` if the strip is damaged or not divisible."""
        # Imports torch, which programs that only list sources do not need.
        from coca.processing.image import decode

        sample = self._source.read(row)
        pixels = decode(sample.image).permute(1, 2, 0).numpy()
        cut = cut_strip(pixels, self._strip)
        first, *others = (as_file(cut[index]) for index in spread(self._strip, self._frames))
        return replace(sample, image=first, others=tuple(others))


# Video-folder source, the layout of UCF101 and HMDB51: the topmost folder is the label.


class VideosConfig(ClipsConfig):
    """Settings of a folder of videos."""

    kind: str = "videos"


@register_source("videos", VideosConfig)
def videos(config: VideosConfig) -> ClipSource:
    """Open all videos and frame folders below a folder, sorted by path.

    `ROOT/juggling/1.mp4` and the images in `ROOT/juggling/1/` both have the label "juggling". The
    key is the path without its suffix.
    """
    root = single_path(config)
    folder = ClipFolder(root)
    if not folder.paths:
        raise DataError(f"{root} has no video and no folder of frames", reason="empty_source")
    return ClipSource(
        [
            AnnotatedSample(
                path, f"{root}/{path}", labels=(path.partition("/")[0],) if "/" in path else ()
            )
            for path in folder.paths
        ],
        config=config,
    )
