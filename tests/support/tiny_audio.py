"""Audio for tests: tones and noises as WAV files, and a tiny model that hears."""

import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray

RATE = 16_000


def tone(hz: float, seconds: float, rate: int = RATE, level: float = 0.5) -> ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def wav(samples: ndarray, rate: int = RATE, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return stream.getvalue()


def write_hearing_model(folder: Path, audio_s: float = 1.0) -> Path:
    # Here, as the runtime's tests have tones, and no torch.
    from coca.processing.processor import Processor
    from tiny_model import write_model

    write_model(folder)
    processor = Processor.load(folder)
    processor.with_image(replace(processor.image_config, audio_s=audio_s)).save(folder)
    return folder
