"""Video decoding and sampling: a fixed number of evenly spaced frames, or one frame per interval.

The first pass reads packets without decoding. It finds the timestamp of each frame, so that frames
are selected by exact index. Decoding then seeks to the nearest keyframe. `processing.video` lists
the reasons for which a video is rejected. Dimensions: H, W a frame's height and width, pixels.

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
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from coca.core.errors import ConfigError, DataError
from coca.core.extras import require
from coca.core.files.formats import IMAGE_SUFFIXES
from coca.processing.image_file import open_file

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


# Reader of untrusted video files: a timestamp scan, then lazy decoding with keyframe seeks.


VideoSource: TypeAlias = bytes | str | Path
"""Content of a file, or its path; URLs are not fetched."""

CONTAINERS = ("mov", "matroska", "webm", "avi", "mpeg", "mpegts", "flv", "ogg", "asf", "gif")
"""Allowed containers. Others are disabled: playlists, for one, open other files and URLs."""

DEFAULT_FRAME_RATE = 25.0
"""Frames per second of a file without a frame rate."""


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """Resource limits of decoding, since untrusted files may demand anything."""

    max_pixels: int = 35_000_000
    """Largest height times width of a frame; allows 8K."""
    max_length_s: float = 6 * 3600.0
    """Longest duration, seconds."""
    max_wait_s: float = 60.0
    """Time limit of the first pass, and of each step to the next frame, seconds."""


DEFAULT_LIMITS = VideoLimits()


@dataclass(frozen=True)
class Frame:
    """An image of a video."""

    time_s: float
    """Timestamp, seconds after the first frame."""
    pixels: UInt8[ndarray, "H W 3"]
    """RGB, upright."""


class VideoFile:
    """An open video whose frames are read in ascending order."""

    def __init__(self, source: VideoSource, limits: VideoLimits) -> None:
        self._av = require("av", extra="video")
        self._source = source
        self._limits = limits
        self._name = _name(source)
        with self._data_errors(), self._opened() as (container, stream):
            self._clock()
            times, self._keys = self._scan(container, stream)
            base, rate = stream.time_base, stream.average_rate or DEFAULT_FRAME_RATE
        if not times:
            raise DataError(f"{self._name} has no frame", reason="no_frames")
        self._timed = None not in times
        # Without timestamps, as in AVI, frames are counted.
        self._times: list[int] = sorted(times) if self._timed else list(range(len(times)))
        unit = float(base) if self._timed and base is not None else 1 / float(rate)
        self.seconds = [(moment - self._times[0]) * unit for moment in self._times]
        """Timestamp of each frame, seconds after the first."""
        if self.seconds[-1] > limits.max_length_s:
            raise DataError(
                f"{self._name} lasts {self.seconds[-1]:,.0f} s; at most "
                f"{limits.max_length_s:,.0f} s are read",
                reason="too_long",
            )

    def __enter__(self) -> "VideoFile":
        self._jumps = self._timed
        self._shown: tuple[int, VideoFrame] | None = None
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opening.__exit__(kind, error, trace)

    def frame(self, index: int, shorter_px: int | None) -> Frame:
        """Decode the frame at an index; indices must not decrease between calls."""
        self._clock()
        with self._data_errors():
            found = self._find(self._times[index])
            return Frame(self.seconds[index], self._pixels(found, shorter_px))

    def _find(self, target: int) -> "VideoFrame":
        if self._shown is None or self._shown[0] < target:
            jumped = self._jump(target)
            for number, (moment, frame) in enumerate(self._decoded):
                self._check_clock()
                if jumped and not number and moment > target:
                    # The index of the container is wrong; from now on decode every frame.
                    self._opening.__exit__(None, None, None)
                    self._jumps = False
                    self._begin()
                    return self._find(target)
                self._shown = moment, frame
                if moment >= target:
                    break
        if self._shown is None:
            raise DataError(f"{self._name} has no frame that decodes", reason="no_frames")
        return self._shown[1]

    def _begin(self) -> None:
        self._opening = self._opened()
        with self._data_errors():
            self._container, self._stream = self._opening.__enter__()
        self._decoded = self._decode()
        self._shown = None

    def _jump(self, target: int) -> bool:
        """Seek to the last keyframe before the target, if it is ahead; return whether it was."""
        number = bisect_right(self._keys, target) - 1
        at = self._times[0] if self._shown is None else self._shown[0]
        if not self._jumps or number < 0 or self._keys[number] <= at:
            return False
        try:
            self._container.seek(self._keys[number], stream=self._stream)
        except self._av.FFmpegError:
            self._jumps = False
            return False
        self._decoded = self._decode()
        return True

    def _decode(self) -> Iterator[tuple[int, "VideoFrame"]]:
        for number, frame in enumerate(self._container.decode(self._stream)):
            if not self._timed:
                yield number, frame
            elif frame.pts is not None:
                yield frame.pts, frame

    def _pixels(self, frame: "VideoFrame", shorter_px: int | None) -> UInt8[ndarray, "H W 3"]:
        self._check_size(frame.width, frame.height)
        width, height = frame.width, frame.height
        if shorter_px is not None and min(width, height) > shorter_px:
            scale = shorter_px / min(width, height)
            width, height = round(width * scale), round(height * scale)
        rgb = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        # The display matrix has counterclockwise degrees, as rot90 does.
        return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))

    def _scan(
        self, container: "InputContainer", stream: "VideoStream"
    ) -> tuple[list[Any], list[int]]:
        """Read the timestamps of all frames (None if absent) and of keyframes."""
        times: list[int | None] = []
        keys: list[int] = []
        found = 0
        for packet in container.demux(stream):
            self._check_clock()
            found += packet.size > 0
            # An edit list may hide frames that other frames depend on.
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        promised = len(stream.index_entries) if "mp4" in container.format.name else 0
        if found < promised:
            raise DataError(
                f"{self._name} is truncated: {found:,} of {promised:,} frames are there",
                reason="truncated",
            )
        return times, sorted(keys)

    @contextmanager
    def _opened(self) -> Iterator[tuple["InputContainer", "VideoStream"]]:
        # FFmpeg gets no file name: names such as `concat:` would open other files.
        with _stream(self._source, self._name) as file:
            options = {"format_whitelist": ",".join(CONTAINERS)}
            with self._av.open(file, options=options, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise DataError(f"{self._name} has no image track", reason="not_a_video")
                stream = container.streams.video[0]
                context = stream.codec_context
                if context is None:
                    raise DataError(f"{self._name} has an unknown codec", reason="not_a_video")
                self._check_size(context.width, context.height)
                context.options = {"max_pixels": str(self._limits.max_pixels)}
                context.thread_count = 1
                yield container, stream

    @contextmanager
    def _data_errors(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            # On damaged files PyAV raises nearly any exception, including IndexError.
            opened = hasattr(self, "_times")
            reason = "corrupt" if opened else "not_a_video"
            what = "damaged" if opened else "no video of a known kind, or its header is damaged"
            cause = getattr(error, "strerror", None) or error
            raise DataError(f"{self._name} is {what}: {cause}", reason=reason) from error

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise DataError(
                f"{self._name} is too large: frames of {width:,} x {height:,} pixels, but at most "
                f"{self._limits.max_pixels:,} are read",
                reason="too_large",
            )

    def _clock(self) -> None:
        self._until = time.monotonic() + self._limits.max_wait_s

    def _check_clock(self) -> None:
        if time.monotonic() > self._until:
            raise DataError(
                f"{self._name} took longer than {self._limits.max_wait_s:g} s to read",
                reason="too_slow",
            )


def _name(source: VideoSource) -> str:
    if isinstance(source, bytes):
        return f"the video of {len(source):,} bytes"
    return str(source)[-300:].encode("utf-8", "backslashreplace").decode()


@contextmanager
def _stream(source: VideoSource, name: str) -> Iterator[io.BytesIO | io.BufferedReader]:
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source, name) as file:
        if not file.read(1):
            raise DataError(f"{name} is empty", reason="empty")
        file.seek(0)
        yield file


# Video frame sampling: a fixed number of evenly spaced frames, or one frame per interval.


FRAME_SUFFIXES = IMAGE_SUFFIXES - {".gif"}
"""Suffixes of frame files in a folder."""


def sample_frames(
    source: VideoSource,
    count: int,
    *,
    shorter_px: int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> list[Frame]:
    """Sample the middle frame of each of `count` equal segments; short videos repeat frames."""
    with VideoFile(source, limits) as video:
        indices = spread(len(video.seconds), count)
        return [video.frame(index, shorter_px) for index in indices]


def read_frames(
    source: VideoSource,
    *,
    frame_interval_s: float,
    shorter_px: int | None = None,
) -> Iterator[Frame]:
    """Yield the first frame of every interval of `frame_interval_s` seconds, decoded lazily."""
    if not frame_interval_s > 0:
        raise ConfigError(f"frame_interval_s must be above 0 seconds, got {frame_interval_s}")
    with VideoFile(source, DEFAULT_LIMITS) as video:
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
) -> list[UInt8[ndarray, "H W 3"] | Path]:
    """Sample `count` evenly spaced images: pixels of a video, or files of a frame folder."""
    if isinstance(source, bytes) or not Path(source).is_dir():
        frames = sample_frames(source, count, shorter_px=shorter_px)
        return [frame.pixels for frame in frames]
    files = frame_files(source)
    return [files[index] for index in spread(len(files), count)]


def frame_files(folder: str | Path) -> list[Path]:
    """List the images of a folder in natural order; `2.jpg` is before `10.jpg`."""
    files = [file for file in Path(folder).iterdir() if file.suffix.lower() in FRAME_SUFFIXES]
    if not files:
        raise DataError(f"the folder {folder} has no images of frames", reason="no_frames")
    numbers = {file: [int(digits) for digits in re.findall(r"\d+", file.stem)] for file in files}
    return sorted(files, key=lambda file: (numbers[file], file.name))


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
    """Split a frame strip along its longer side into `count` images of equal size."""
    height, width = strip.shape[:2]
    axis = 1 if width >= height else 0
    if count < 1 or strip.shape[axis] % count:
        raise DataError(
            f"a strip of {width} x {height} pixels cannot be cut into {count} frames of equal size",
            reason="bad_strip",
        )
    return np.split(strip, count, axis=axis)
