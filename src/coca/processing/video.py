"""Video frame sampling: a fixed number of evenly spaced frames, or one frame per interval.

    frames = sample_frames("clip.mp4", 16)
    for frame in read_frames("film.mkv", frame_interval_s=5.0): ...

Frames are selected by exact index and are equal on every call. Needs the extra `video`.
Dimensions: H, W the frame's height and width, h, w those of a part, pixels.

A video that cannot be used raises a `DataError` whose `reason` is one of

    missing        no such file, or no permission to read it
    empty          no bytes
    not_a_video    none of `CONTAINERS`, or a damaged header, or no image track
    too_large      frames of more pixels than allowed; checked before decoding
    too_long       duration longer than allowed
    too_slow       reading took longer than allowed
    truncated      the file ends before the frames that its header promises
    corrupt        the data are inconsistent
    no_frames      no frame in the video
"""

import io
import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.processing.video_file import DEFAULT_LIMITS, Frame, VideoFile, VideoLimits, VideoSource

FRAME_SUFFIXES = IMAGE_SUFFIXES - {".gif"}
"""Suffixes of frame files in a folder."""


def sample_frames(
    source: VideoSource,
    count: int,
    *,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> list[Frame]:
    """Sample the middle frame of each of `count` equal segments; short videos repeat frames.

    Args:
        source: Path or content of the file.
        count: Number of frames, at least 1.
        shorter_px: Larger frames are resized so that their shorter side has this many pixels.
        limits: Limits of size, duration and time.

    Raises:
        DataError: The video cannot be used; the module docstring lists the reasons.
        MissingExtraError: The extra `video` is not installed.
    """
    with VideoFile(source, limits) as video:
        indices = spread(len(video.seconds), count)
        return [video.frame(index, shorter_px) for index in indices]


def read_frames(
    source: VideoSource,
    *,
    frame_interval_s: float,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> Iterator[Frame]:
    """Yield the first frame of every interval of `frame_interval_s` seconds, decoded lazily.

    Args:
        source: Path or content of the file.
        frame_interval_s: Interval between frames, seconds, above 0.
        shorter_px: As in `sample_frames`.
        limits: Limits of size, duration and time.

    Raises:
        DataError: The video cannot be used; may be raised after some frames.
        MissingExtraError: The extra `video` is not installed.
    """
    if not frame_interval_s > 0:
        raise ConfigError(f"frame_interval_s must be above 0 seconds, got {frame_interval_s}")
    with VideoFile(source, limits) as video:
        index, seconds = 0, video.seconds
        while index < len(seconds):
            yield video.frame(index, shorter_px)
            interval = int(seconds[index] / frame_interval_s + 1e-6) + 1
            index = max(bisect_left(seconds, interval * frame_interval_s - 1e-6), index + 1)


def clip_frames(
    source: VideoSource,
    count: int,
    *,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> list[UInt8[ndarray, "H W 3"] | Path]:
    """Sample `count` evenly spaced images of a clip: pixels of a video, or files of a frame folder.

    Raises:
        DataError: As `sample_frames`; or the folder holds no image (reason `"no_frames"`).
    """
    if isinstance(source, bytes) or not Path(source).is_dir():
        frames = sample_frames(source, count, shorter_px=shorter_px, limits=limits)
        return [frame.pixels for frame in frames]
    files = frame_files(source)
    return [files[index] for index in spread(len(files), count)]


def frame_files(folder: str | Path) -> list[Path]:
    """List the images of a folder in natural order; `2.jpg` is before `10.jpg`.

    Raises:
        DataError: The folder has no image (reason `"no_frames"`).
    """
    files = [file for file in Path(folder).iterdir() if file.suffix.lower() in FRAME_SUFFIXES]
    if not files:
        raise DataError(f"the folder {folder} holds no images of frames", reason="no_frames")
    return sorted(files, key=_by_number)


def _by_number(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.stem)], file.name


def as_file(pixels: UInt8[ndarray, "H W 3"]) -> bytes:
    """Encode a frame as BMP, which is lossless and fast to write and read."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "BMP")
    return stream.getvalue()


def spread(total: int, count: int) -> list[int]:
    """Compute evenly spaced indices: the middles of `count` equal parts of `total`.

    `spread(9, 3) == [1, 4, 7]`. Indices are ascending, and repeat if `total` is below `count`.
    """
    if total < 1 or count < 1:
        raise ConfigError(f"{count} of {total} frames cannot be chosen; both must be at least 1")
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def cut_strip(strip: UInt8[ndarray, "H W 3"], count: int) -> list[UInt8[ndarray, "h w 3"]]:
    """Split a frame strip along its longer side into `count` images of equal size.

    Raises:
        DataError: The longer side is not divisible by `count` (reason `"bad_strip"`).
    """
    height, width = strip.shape[:2]
    axis = 1 if width >= height else 0
    if count < 1 or strip.shape[axis] % count:
        raise DataError(
            f"a strip of {width} x {height} pixels cannot be cut into {count} frames of equal size",
            reason="bad_strip",
        )
    return np.split(strip, count, axis=axis)
