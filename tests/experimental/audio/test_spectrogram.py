"""Audio as images: formats, levels, and spectrograms equal to those of transformers."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from coca.core.errors import DataError
from coca.experimental.audio.spectrogram import spectrogram
from coca.processing.image_file import read_image
from tiny_audio import tone, wav

av: Any = pytest.importorskip("av", reason="needs the extra `audio`")


def encoded(samples: ndarray, container: str, codec: str, rate: int) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        track = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        fifo = av.AudioResampler(track.format, "mono", rate, frame_size=track.frame_size or None)
        for part in [*fifo.resample(frame), *fifo.resample(None)]:
            file.mux(track.encode(part))
        file.mux(track.encode(None))
    return stream.getvalue()


def shades(data: bytes) -> ndarray:
    return np.asarray(read_image(data))[..., 0]


def test_spectrograms_equal_those_of_transformers() -> None:
    audio = pytest.importorskip("transformers.audio_utils", reason="needs transformers")
    generator = np.random.default_rng(0)
    samples = (tone(440, 1.0) + 0.01 * generator.standard_normal(16_000)).astype(np.float32)
    filters = audio.mel_filter_bank(513, 128, 0, 8_000, 16_000, norm=None, mel_scale="htk")
    assert (filters.sum(0) > 0).all()
    power = audio.spectrogram(
        samples,
        audio.window_function(400, "hann"),
        frame_length=400,
        hop_length=160,
        fft_length=1_024,
        power=2.0,
        pad_mode="constant",
        mel_filters=filters,
    )
    level = 10 * np.log10(np.maximum(power, 1e-10) / power.max())
    expected = np.round(np.clip(-level / 80, 0, 1) * 255)[::-1, :100]
    assert np.abs(spectrogram(samples) - expected).max() <= 1


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("wav", "pcm_s16le", 8_000),
        ("flac", "flac", 16_000),
        ("mp3", "mp3", 44_100),
        ("ogg", "libopus", 48_000),
        ("ipod", "aac", 44_100),
        ("aiff", "pcm_s16be", 16_000),
        ("adts", "aac", 44_100),
    ],
)
def test_every_format_is_recognized_by_its_content(container: str, codec: str, rate: int) -> None:
    drawn = shades(encoded(tone(1_000, 1.0, rate), container, codec, rate))
    expected = shades(wav(tone(1_000, 1.0)))
    assert drawn.shape == (128, 100)
    assert abs(int(drawn[:, 50].argmin()) - int(expected[:, 50].argmin())) <= 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "damaged"),
        (b"ID3" + bytes(500), "damaged"),
        (wav(np.zeros(0)), "has no audio"),
        (b"OggS" + bytes(range(200)), "damaged"),
        (b"no image and no sound", "is not a JPEG"),
    ],
)
def test_damaged_and_other_files_are_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        read_image(data)
    assert "\n" not in str(caught.value)


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(tone(440, 0.1)))
    playlist = f"ID3#EXTM3U\n#EXTINF:1,\nfile:{secret}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(DataError, match="damaged"):
        read_image(playlist)
