"""Audio as images: formats, levels, windows, and spectrograms equal to those of transformers."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from coca.core.errors import DataError
from coca.runtime.audio_file import (
    FRAME_RATE,
    SAMPLE_RATE,
    WHOLE,
    audio_image,
    audio_windows,
    read_audio,
    spectrogram,
)
from coca.runtime.image_file import read_image
from coca.runtime.preprocess import square
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


def test_a_tone_is_a_dark_line_at_its_frequency_for_as_long_as_it_lasts() -> None:
    rows = []
    for hz in (200, 1_000, 5_000):
        shades = np.asarray(audio_image(wav(tone(hz, 0.5)), "tone", 1.0))[..., 0]
        assert shades.shape == (128, 100)
        darkest = int(shades[:, 25].argmin())
        assert (shades[darkest, 2:48] < 10).all()
        assert (shades[:, 55:] == 255).all()
        rows.append(darkest)
    assert rows == sorted(rows, reverse=True)


def test_the_level_of_a_clip_does_not_matter_but_silence_stays_white() -> None:
    loud, quiet = (
        np.asarray(audio_image(wav(tone(440, 0.5, level=level)), "x", 0.5), int)
        for level in (0.9, 0.09)
    )
    assert (loud < 10).any()
    assert np.abs(loud - quiet)[loud < 128].max() <= 1
    noise = np.random.default_rng(0).integers(-1, 2, 8_000) / 32_767
    assert np.asarray(audio_image(wav(noise), "x", 0.5)).min() > 80


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_every_sample_rate_gives_the_same_times_and_frequencies(rate: int) -> None:
    shades = np.asarray(audio_image(wav(tone(1_000, 0.5, rate), rate), "x", 1.0))[..., 0]
    expected = np.asarray(audio_image(wav(tone(1_000, 0.5)), "x", 1.0))[..., 0]
    assert abs(int(shades[:, 25].argmin()) - int(expected[:, 25].argmin())) <= 1
    assert (shades[:, 55:] == 255).all()


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("flac", "flac", 16_000),
        ("mp3", "mp3", 44_100),
        ("ogg", "libopus", 48_000),
        ("ipod", "aac", 44_100),
        ("aiff", "pcm_s16be", 16_000),
        ("adts", "aac", 44_100),
    ],
)
def test_every_format_is_recognized_by_its_content(container: str, codec: str, rate: int) -> None:
    data = encoded(tone(1_000, 1.0, rate), container, codec, rate)
    shades = np.asarray(read_image(data, audio_s=1.0))[..., 0]
    expected = np.asarray(read_image(wav(tone(1_000, 1.0)), audio_s=1.0))[..., 0]
    assert shades.shape == (128, 100)
    assert abs(int(shades[:, 50].argmin()) - int(expected[:, 50].argmin())) <= 1


def test_channels_are_mixed() -> None:
    left, right = tone(400, 0.5), tone(4_000, 0.5)
    both = np.stack([left, right], axis=1).ravel()
    mixed = read_audio(wav(both, channels=2), "x", rate=SAMPLE_RATE, length_s=1.0)
    assert mixed.shape == (8_000,)
    peaks = np.abs(np.fft.rfft(mixed))
    assert {int(it) * 2 for it in np.argsort(peaks)[-2:]} == {400, 4_000}


def test_whole_clips_are_as_wide_as_long_and_models_read_their_window() -> None:
    data = wav(tone(440, 2.5))
    assert read_image(data, audio_s=WHOLE).size == (250, 128)
    assert read_image(data, audio_s=1.28).size == (128, 128)
    assert read_image(data, audio_s=4.0).size == (round(4.0 * FRAME_RATE), 128)


def test_windows_cover_a_clip_in_order_at_its_own_rate() -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 52_300).astype(np.float32)
    windows = list(audio_windows(wav(samples, 22_050), "x", 1.0))
    assert [start for start, _ in windows] == [0.0, 1.0, 2.0]
    parts = [read_audio(data, "x", rate=22_050, length_s=9.0) for _, data in windows]
    assert [len(part) for part in parts] == [22_050, 22_050, 8_200]
    assert np.abs(np.concatenate(parts) - samples).max() < 1e-4


def test_a_last_window_of_next_to_nothing_is_left_out() -> None:
    assert len(list(audio_windows(wav(tone(440, 1.05)), "x", 1.0))) == 1
    assert len(list(audio_windows(wav(tone(440, 0.05)), "x", 1.0))) == 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "damaged"),
        (b"ID3" + bytes(500), "damaged"),
        (wav(np.zeros(0)), "has no audio"),
        (b"OggS" + bytes(range(200)), "damaged"),
    ],
)
def test_damaged_files_are_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        read_image(data, audio_s=1.0)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=sentence):
        list(audio_windows(data, "clip.wav", 1.0))


def test_a_model_of_images_says_that_it_does_not_hear(tmp_path: Path) -> None:
    file = tmp_path / "dog.wav"
    file.write_bytes(wav(tone(440, 0.1)))
    with pytest.raises(DataError, match=r"dog\.wav is audio, and this model reads images"):
        read_image(file)


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(tone(440, 0.1)))
    playlist = f"ID3#EXTM3U\n#EXTINF:1,\nfile:{secret}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(DataError, match="damaged"):
        read_image(playlist, audio_s=WHOLE)


def test_reading_stops_where_the_window_ends() -> None:
    long = wav(tone(440, 60.0))
    truncated = long[: len(long) // 4]
    assert read_image(truncated, audio_s=5.0).size == (500, 128)
    assert math.isclose(read_image(long, audio_s=WHOLE).size[0], 3_000)


def test_exported_models_read_the_same_spectrogram_as_torch() -> None:
    pytest.importorskip("torch")
    from coca.processing.image import ImageConfig, ImageTransform

    config = ImageConfig(image_size=64, audio_s=1.0)
    transform, data = ImageTransform(config), wav(tone(1_000, 0.7))
    torch_square = transform.square(transform.read(data)).numpy().astype(int)
    exported = square(data, config.settings(resampler="pillow")).astype(int)
    assert exported.shape == (3, 64, 64)
    assert np.abs(torch_square - exported).max() <= 1
