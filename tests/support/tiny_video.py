"""Small videos, encoded here and now; frame n is a gray of level `GRAY * n` below a red corner."""

import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np

GRAY = 4
WIDTH, HEIGHT = 64, 48


def video(
    *,
    container: str = "mp4",
    codec: str = "h264",
    frames: int = 50,
    keyframe_every: int = 12,
    rotation: int = 0,
    noise: int = 0,
    colour: tuple[int, int, int] | None = None,
) -> bytes:
    """An encoded video; `noise` makes it large, `colour` makes all frames alike."""
    stream_options = {"x265-params": "log-level=none", "svtav1-params": "lp=1"}
    options = {"movflags": "faststart"} if container == "mp4" else {}
    with (
        tempfile.NamedTemporaryFile() as file,
        av.open(file.name, "w", format=container, options=options) as out,
    ):
        stream: Any = out.add_stream(codec, rate=25, options=stream_options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = keyframe_every
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            image = _image(number, noise) if colour is None else _plain(colour)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
        out.close()
        return Path(file.name).read_bytes()


def number_of(pixels: np.ndarray) -> int:
    """Which frame of `video` this is."""
    return round(float(pixels[-8:, -8:].mean()) / GRAY)


def _image(number: int, noise: int) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), GRAY * number, np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = (255, 0, 0)
    if noise:
        grains = np.random.default_rng(number).integers(0, noise, (HEIGHT, WIDTH - 16, 3))
        image[:, : WIDTH - 16] += grains.astype(np.uint8)
    return image


def _plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
