"""Tones as WAV files."""

import io
import wave

import numpy as np
from numpy import ndarray

RATE = 16_000


def tone(hz: float, seconds: float, rate: int = RATE) -> ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def wav(samples: ndarray, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return stream.getvalue()
