"""Audio files as images: the log-mel spectrogram of a clip, dark on white, without torch.

A model hears by seeing: it reads the spectrogram of a clip as it reads a photo, as the Audio
Spectrogram Transformer does with the encoder of images (Gong et al. 2021, arXiv 2104.01778). So
encoder, poolers, decoders, tasks, search and thumbnails are those of images. Silence is white, and
so is the padding of images; a shift of the image along the width is a shift in time.

The scale is the same for every model: `FRAME_RATE` columns a second, `MEL_BINS` rows up to
`SAMPLE_RATE` / 2, `RANGE_DB` from black to white. A model states the length of clip that it reads
(`ImageConfig.audio_s`). Needs the extra `audio`.

Dimensions: N samples of audio, T columns of the spectrogram.
"""

import functools
import io
import itertools
import math
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from coca.core.errors import DataError, MissingExtraError
from coca.core.extras import require

AudioSource: TypeAlias = bytes | str | Path
"""Content of a file, or its path; URLs are not fetched."""

CONTAINERS = ("wav", "w64", "flac", "mp3", "ogg", "mov", "aac", "aiff")
"""Allowed containers by their FFmpeg names. Playlists, which open other files, are not."""

SAMPLE_RATE = 16_000
"""Samples a second of the audio that spectrograms are computed from."""
FRAME_RATE = 100
"""Columns of a spectrogram a second."""
MEL_BINS = 128
"""Rows of a spectrogram; the lowest frequency is at the bottom."""
RANGE_DB = 80.0
"""Level below the loudest part at which a pixel is white, decibels."""
WHOLE = math.inf
"""Length that reads a clip to its end, up to `MAX_SHOWN_S`, without padding: for people."""
MAX_SHOWN_S = 30.0

_WINDOW, _FFT, _HOP = 400, 1_024, SAMPLE_RATE // FRAME_RATE
# Mel power of a sine 60 dB below full scale. Clips without anything louder are nearly silent, and
# must not be amplified to the noise of their last bit.
_QUIET = (_WINDOW / 4) ** 2 * 1e-6
_MAX_STORED_RATE = 48_000
_MAX_LENGTH_S = 6 * 3600.0
_MAX_WAIT_S = 60.0


def audio_image(source: AudioSource, name: str, length_s: float) -> Image.Image:
    """Draw the spectrogram of a clip's first `length_s` seconds as an RGB image.

    A shorter clip is followed by silence. With `WHOLE` the image is as long as the clip.
    """
    is_whole = math.isinf(length_s)
    length_s = MAX_SHOWN_S if is_whole else length_s
    samples = read_audio(source, name, rate=SAMPLE_RATE, length_s=length_s)
    if not is_whole:
        samples = np.pad(samples, (0, math.ceil(length_s * SAMPLE_RATE) - len(samples)))
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


def audio_windows(source: AudioSource, name: str, window_s: float) -> Iterator[tuple[float, bytes]]:
    """Yield consecutive parts of a clip as WAV files (mono, 16 bits), each with its start, seconds.

    The last part is shorter; one of less than a tenth of `window_s` is left out if it is not the
    only one.
    """
    with _decoded(source, name, None) as (rate, decoded):
        size = max(1, round(window_s * rate))
        kept: list[Float32[ndarray, " N"]] = []
        start, count = 0, 0
        for piece in decoded:
            kept.append(piece)
            count += len(piece)
            while count >= size:
                whole = np.concatenate(kept)
                yield start / rate, _as_wav(whole[:size], rate)
                start, kept, count = start + size, [whole[size:]], count - size
        if not start and not count:
            raise _empty(name)
        if not start or count >= size / 10:
            yield start / rate, _as_wav(np.concatenate(kept), rate)


def read_audio(
    source: AudioSource, name: str, *, rate: int, length_s: float
) -> Float32[ndarray, " N"]:
    """Read the first `length_s` seconds of a clip as mono audio (-1 to 1) at a sample rate."""
    pieces: list[Float32[ndarray, " N"]] = []
    missing = math.ceil(length_s * rate)
    with _decoded(source, name, rate) as (_, decoded):
        for piece in decoded:
            pieces.append(piece[:missing])
            missing -= len(pieces[-1])
            if not missing:
                break
    if not any(map(len, pieces)):
        raise _empty(name)
    return np.concatenate(pieces)


@contextmanager
def _decoded(
    source: AudioSource, name: str, rate: int | None
) -> Iterator[tuple[int, Iterator[Float32[ndarray, " N"]]]]:
    """Open a file; yield the sample rate and the pieces of its audio, mixed to mono."""
    av = _library(name)
    try:
        # FFmpeg gets no file name: names such as `concat:` would open other files.
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            options = {"format_whitelist": ",".join(CONTAINERS)}
            with av.open(file, options=options, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise DataError(f"{name} has no audio track", reason="not_audio")
                stream = container.streams.audio[0]
                stream.codec_context.thread_count = 1
                rate = rate or min(stream.codec_context.sample_rate, _MAX_STORED_RATE)
                resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
                yield rate, _pieces(container.decode(stream), resampler, rate, name)
    except DataError:
        raise
    except Exception as error:
        # On damaged files PyAV raises nearly any exception, including IndexError.
        cause = getattr(error, "strerror", None) or error
        sentence = f"{name} is not audio of a known kind, or it is damaged: {cause}"
        raise DataError(sentence, reason="corrupt") from error


def _pieces(
    frames: Iterator[Any], resampler: Any, rate: int, name: str
) -> Iterator[Float32[ndarray, " N"]]:
    until, count = time.monotonic() + _MAX_WAIT_S, 0
    for frame in itertools.chain(frames, [None]):
        for piece in resampler.resample(frame):
            samples = piece.to_ndarray()[0]
            count += len(samples)
            if count > _MAX_LENGTH_S * rate:
                limit = f"at most {_MAX_LENGTH_S:,.0f} s are read"
                raise DataError(f"{name} is too long: {limit}", reason="too_long")
            if time.monotonic() > until:
                limit = f"longer than {_MAX_WAIT_S:g} s to read"
                raise DataError(f"{name} took {limit}", reason="too_slow")
            yield samples


def _empty(name: str) -> DataError:
    return DataError(f"{name} is empty: it has no audio", reason="empty")


def _library(name: str) -> Any:
    try:
        return require("av", extra="audio")
    except MissingExtraError as error:
        raise DataError(f"{name} is audio: {error}", reason="missing_extra") from error


def silent_wav() -> bytes:
    """Return a tenth of a second of silence as a WAV file, to load what decoding needs."""
    return _as_wav(np.zeros(SAMPLE_RATE // 10, np.float32), SAMPLE_RATE)


def _as_wav(samples: Float32[ndarray, " N"], rate: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32_767).round().astype("<i2").tobytes())
    return stream.getvalue()


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
