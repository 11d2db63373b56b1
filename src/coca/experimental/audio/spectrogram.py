"""Sounds as images: the log-mel spectrogram of a clip, dark on white, without torch.

A model reads the spectrogram of a clip as it reads a photo, as the Audio Spectrogram Transformer
does with the encoder of images (Gong et al. 2021, arXiv 2104.01778). Silence is white, and so is
the padding of images; a shift of the image along the width is a shift in time. The image has
`FRAME_RATE` columns a second, `MEL_BINS` rows up to `SAMPLE_RATE` / 2, and `RANGE_DB` from black to
white. Needs the extra `audio`.

Dimensions: N samples of audio, T columns of the spectrogram.
"""

import functools
import io
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from coca.core.errors import DataError
from coca.core.extras import require
from coca.processing.image_file import Stream

AudioSource: TypeAlias = bytes | str | Path
"""Content of a file, or its path; URLs are not fetched."""

LENGTH_S = 1.0
"""Seconds of a clip that an image shows; a shorter clip is followed by silence."""
SAMPLE_RATE = 16_000
"""Samples a second of the audio that spectrograms are computed from."""
FRAME_RATE = 100
"""Columns of a spectrogram a second."""
MEL_BINS = 128
"""Rows of a spectrogram; the lowest frequency is at the bottom."""
RANGE_DB = 80.0
"""Level below the loudest part at which a pixel is white, decibels."""

CONTAINERS = ("wav", "w64", "flac", "mp3", "ogg", "mov", "aac", "aiff")
"""Allowed containers by their FFmpeg names. Playlists, which open other files, are not."""
_SIGNATURES = (
    *((8, it) for it in (b"WAVE", b"AIFF", b"AIFC")),
    *((0, it) for it in (b"fLaC", b"OggS", b"ID3")),
    (4, b"ftypM4A"),
)
"""Bytes of audio files, and their position."""
_HEAD_BYTES = 16

_WINDOW, _FFT, _HOP = 400, 1_024, SAMPLE_RATE // FRAME_RATE
# Mel power of a sine 60 dB below full scale. Clips without anything louder are nearly silent, and
# must not be amplified to the noise of their last bit.
_QUIET = (_WINDOW / 4) ** 2 * 1e-6
_MAX_WAIT_S = 60.0


def decode(stream: Stream, name: str) -> Image.Image | None:
    """Draw the spectrogram of the first second of a clip as an RGB image; None if it is no audio.

    Raises:
        DataError: The audio is damaged, empty or takes too long to read.
    """
    head = stream.read(_HEAD_BYTES)
    # MPEG audio without a tag begins with 11 bits that are set.
    is_mpeg = head[:1] == b"\xff" and head[1:2] >= b"\xe0"
    if not is_mpeg and not any(head.startswith(it, at) for at, it in _SIGNATURES):
        return None
    stream.seek(0)
    samples = read_audio(stream.read(), name, rate=SAMPLE_RATE, length_s=LENGTH_S)
    samples = np.pad(samples, (0, math.ceil(LENGTH_S * SAMPLE_RATE) - len(samples)))
    return Image.fromarray(spectrogram(samples)).convert("RGB")


def spectrogram(samples: Float32[ndarray, " N"]) -> UInt8[ndarray, "128 T"]:
    """Compute the log-mel spectrogram of mono audio at `SAMPLE_RATE`; 0 is loud, 255 silent.

    Hann windows of 25 ms, one each 10 ms, centred; HTK's mel scale; level relative to the loudest
    part. T is the number of windows that begin within the clip, at least 1.
    """
    columns = max(1, math.ceil(len(samples) / _HOP))
    padded = np.pad(samples, (_WINDOW // 2, columns * _HOP + _WINDOW - len(samples)))
    windows = sliding_window_view(padded, _WINDOW)[::_HOP][:columns]
    power = np.abs(np.fft.rfft(windows * _hann(), _FFT)).astype(np.float32) ** 2
    mel = _mel_filters() @ power.T
    level = 10 * np.log10(np.maximum(mel, 1e-10) / max(float(mel.max()), _QUIET))
    shade = np.clip(-level / RANGE_DB, 0, 1) * 255
    return shade[::-1].round().astype(np.uint8)


def read_audio(
    source: AudioSource, name: str, *, rate: int, length_s: float
) -> Float32[ndarray, " N"]:
    """Read the first `length_s` seconds of a clip as mono audio (-1 to 1) at a sample rate."""
    pieces: list[Float32[ndarray, " N"]] = []
    missing = math.ceil(length_s * rate)
    with _decoded(source, name, rate) as decoded:
        for piece in decoded:
            pieces.append(piece[:missing])
            missing -= len(pieces[-1])
            if not missing:
                break
    if not any(map(len, pieces)):
        raise DataError(f"{name} is empty: it has no audio", reason="empty")
    return np.concatenate(pieces)


@contextmanager
def _decoded(
    source: AudioSource, name: str, rate: int
) -> Iterator[Iterator[Float32[ndarray, " N"]]]:
    """Open a file; yield the pieces of its audio, mixed to mono."""
    av = require("av", extra="audio")
    try:
        # FFmpeg gets no file name: names such as `concat:` would open other files.
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            options = {"format_whitelist": ",".join(CONTAINERS)}
            with av.open(file, options=options, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise DataError(f"{name} has no audio track", reason="not_audio")
                track = container.streams.audio[0]
                track.codec_context.thread_count = 1
                resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
                yield _pieces(container.decode(track), resampler, name)
    except DataError:
        raise
    except Exception as error:
        # On damaged files PyAV raises nearly any exception, including IndexError.
        cause = getattr(error, "strerror", None) or error
        sentence = f"{name} is not audio of a known kind, or it is damaged: {cause}"
        raise DataError(sentence, reason="corrupt") from error


def _pieces(frames: Iterator[Any], resampler: Any, name: str) -> Iterator[Float32[ndarray, " N"]]:
    until = time.monotonic() + _MAX_WAIT_S
    for frame in itertools.chain(frames, [None]):
        for piece in resampler.resample(frame):
            if time.monotonic() > until:
                limit = f"longer than {_MAX_WAIT_S:g} s to read"
                raise DataError(f"{name} took {limit}", reason="too_slow")
            yield piece.to_ndarray()[0]


@functools.cache
def _hann() -> Float32[ndarray, " W"]:
    phase = np.arange(_WINDOW) / _WINDOW
    return (0.5 - 0.5 * np.cos(2 * np.pi * phase)).astype(np.float32)


@functools.cache
def _mel_filters() -> Float32[ndarray, "128 F"]:
    """Build triangular filters, evenly spaced on HTK's mel scale, from 0 to half the rate."""
    top = 2_595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MEL_BINS + 2) / 2_595) - 1)
    frequencies = np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
