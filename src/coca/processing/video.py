"""Frames of a video: a fixed number spread over its length, or one every few seconds.

    frames = sample_frames("clip.mp4", 16)
    for frame in read_frames("film.mkv", every_s=5.0): ...

Frames are chosen by exact place, the same ones on every call. Needs the extra `video`. Letters:
H, W the frame's height and width, h, w those of a part, pixels.

A video that cannot be used raises a `DataError` whose `reason` is one of

    missing        no such file, or the system does not let us read it
    empty          no bytes
    not_a_video    none of `CONTAINERS`, or a header too damaged to tell, or no image track
    too_large      frames of more pixels than allowed; known before anything is decoded
    too_long       it lasts longer than allowed
    too_slow       reading took longer than allowed
    truncated      the file ends before the frames that its header promises
    corrupt        the data contradict themselves
    no_frames      it opens and ends without a frame
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
from coca.core.formats import IMAGE_SUFFIXES
from coca.processing.video_file import DEFAULT_LIMITS, Frame, VideoFile, VideoLimits, VideoSource

FRAME_SUFFIXES = IMAGE_SUFFIXES - {".gif"}
"""Files of a folder that are taken for frames."""


def sample_frames(
    source: VideoSource,
    count: int,
    *,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> list[Frame]:
    """The middle frame of each of `count` equal parts; of a shorter video some come repeatedly.

    Args:
        source: File or its content.
        count: Frames to give, at least 1.
        shorter_px: Larger frames are shrunk so that their shorter side has this many pixels.
        limits: What is refused.

    Raises:
        DataError: It cannot be used; the module's head lists the reasons.
        MissingExtraError: The extra `video` is not installed.
    """
    with VideoFile(source, limits) as video:
        places = spread(len(video.seconds), count)
        return [video.frame(place, shorter_px) for place in places]


def read_frames(
    source: VideoSource,
    *,
    every_s: float,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> Iterator[Frame]:
    """The first frame, and from then on the first one of every `every_s` seconds, each when asked.

    Args:
        source: File or its content.
        every_s: Seconds between two frames, above 0.
        shorter_px: As for `sample_frames`.
        limits: What is refused.

    Raises:
        DataError: It cannot be used, which may be found midway.
        MissingExtraError: The extra `video` is not installed.
    """
    if not every_s > 0:
        raise ConfigError(f"every_s is {every_s}; right is a number of seconds above 0")
    with VideoFile(source, limits) as video:
        place, seconds = 0, video.seconds
        while place < len(seconds):
            yield video.frame(place, shorter_px)
            mark = int(seconds[place] / every_s + 1e-6) + 1
            place = max(bisect_left(seconds, mark * every_s - 1e-6), place + 1)


def clip_pictures(
    source: VideoSource,
    count: int,
    *,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> list[UInt8[ndarray, "H W 3"] | Path]:
    """`count` images spread over a clip: pixels of a video, or files of a folder of frames.

    Raises:
        DataError: As `sample_frames`; or the folder holds no image (reason `"no_frames"`).
    """
    if isinstance(source, bytes) or not Path(source).is_dir():
        frames = sample_frames(source, count, shorter_px=shorter_px, limits=limits)
        return [frame.pixels for frame in frames]
    files = frame_files(source)
    return [files[place] for place in spread(len(files), count)]


def frame_files(folder: str | Path) -> list[Path]:
    """The images that lie in a folder, by name; `2.jpg` comes before `10.jpg`.

    Raises:
        DataError: It holds none (reason `"no_frames"`).
    """
    files = [file for file in Path(folder).iterdir() if file.suffix.lower() in FRAME_SUFFIXES]
    if not files:
        raise DataError(f"the folder {folder} holds no images of frames", reason="no_frames")
    return sorted(files, key=_by_number)


def _by_number(file: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", file.stem)], file.name


def as_file(pixels: UInt8[ndarray, "H W 3"]) -> bytes:
    """A frame as an image file: BMP, which loses nothing and costs no time to write or read."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "BMP")
    return stream.getvalue()


def spread(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `total` places, ascending: `spread(9, 3) == [1, 4, 7]`.

    Fewer places than parts come repeatedly.
    """
    if total < 1 or count < 1:
        raise ConfigError(f"{count} of {total} frames cannot be chosen; both must be at least 1")
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def cut_strip(strip: UInt8[ndarray, "H W 3"], count: int) -> list[UInt8[ndarray, "h w 3"]]:
    """The frames of a strip: `count` images of equal size, side by side or one below the other.

    Raises:
        DataError: The longer side cannot be cut into `count` (reason `"bad_strip"`).
    """
    height, width = strip.shape[:2]
    axis = 1 if width >= height else 0
    if count < 1 or strip.shape[axis] % count:
        raise DataError(
            f"a strip of {width} x {height} pixels cannot be cut into {count} frames of equal size",
            reason="bad_strip",
        )
    return np.split(strip, count, axis=axis)
