import struct
from pathlib import Path

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError
from coca.processing.video import VideoLimits, cut_strip, read_frames, sample_frames, spread
from tiny_video import HEIGHT, WIDTH, number_of, video

KINDS = [
    ("mp4", "h264"),
    ("matroska", "h264"),
    ("webm", "libvpx-vp9"),
    ("mpegts", "h264"),
    ("avi", "mpeg4"),
    ("mp4", "mpeg4"),
    ("mpeg", "mpeg2video"),
    ("flv", "flv"),
]


def corners(pixels: np.ndarray) -> list[bool]:
    """Which corners are red: upper left and right, lower left and right."""
    positions = [pixels[4, 4], pixels[4, -5], pixels[-5, 4], pixels[-5, -5]]
    return [int(position[0]) > int(position[2]) + 100 for position in positions]


def refused(content: bytes | str | Path, **limits: float) -> DataError:
    with pytest.raises(DataError) as caught:
        sample_frames(content, 3, limits=VideoLimits(**limits))  # type: ignore[arg-type]
    return caught.value


def test_spread_takes_the_middle_of_each_part() -> None:
    assert spread(9, 3) == [1, 4, 7]
    assert spread(50, 6) == [4, 12, 20, 29, 37, 45]
    assert spread(4, 4) == [0, 1, 2, 3]


def test_spread_over_too_few_positions_repeats_some_and_misses_none() -> None:
    positions = spread(3, 8)
    assert len(positions) == 8
    assert sorted(set(positions)) == [0, 1, 2]
    assert positions == sorted(positions)


@pytest.mark.parametrize(("container", "codec"), KINDS)
def test_frames_are_the_same_ones_in_every_container(container: str, codec: str) -> None:
    content = video(container=container, codec=codec)
    frames = sample_frames(content, 6)
    assert [number_of(frame.pixels) for frame in frames] == spread(50, 6)
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in spread(50, 6)])


@pytest.mark.parametrize("keyframe_every", [1, 7, 100])
def test_jumping_to_keyframes_gives_what_going_through_all_frames_gives(
    keyframe_every: int,
) -> None:
    content = video(frames=60, keyframe_every=keyframe_every)
    every = [frame.pixels for frame in read_frames(content, frame_interval_s=0.04)]
    assert len(every) == 60
    for frame, position in zip(sample_frames(content, 7), spread(60, 7), strict=True):
        np.testing.assert_array_equal(frame.pixels, every[position])


def test_a_video_shorter_than_the_count_gives_some_frames_repeatedly() -> None:
    numbers = [number_of(frame.pixels) for frame in sample_frames(video(frames=3), 8)]
    assert numbers == spread(3, 8)


def test_frames_every_half_second_start_at_the_first() -> None:
    frames = list(read_frames(video(), frame_interval_s=0.5))
    # At 25 frames a second the first frame not before 0.5 s is number 13.
    assert [number_of(frame.pixels) for frame in frames] == [0, 13, 25, 38]


def test_frames_asked_for_more_often_than_there_are_any_come_once() -> None:
    assert len(list(read_frames(video(frames=5), frame_interval_s=0.001))) == 5


def test_reading_is_lazy_and_may_be_left() -> None:
    frames = read_frames(video(), frame_interval_s=0.04)
    assert number_of(next(frames).pixels) == 0
    assert number_of(next(frames).pixels) == 1
    frames.close()  # type: ignore[attr-defined]


def test_every_s_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="frame_interval_s must be above 0"):
        next(read_frames(video(frames=2), frame_interval_s=-1.0))


def test_a_phone_held_upright_gives_upright_frames() -> None:
    # What phones write: the matrix that turns by 90 degrees with the clock, as 16.16 numbers.
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content = video(frames=4)
    header = content.index(b"tkhd")
    assert plain in content[header:]
    start = content.index(plain, header)
    content = content[:start] + turned + content[start + len(turned) :]
    (frame,) = sample_frames(content, 1)
    assert frame.pixels.shape == (WIDTH, HEIGHT, 3)
    assert corners(frame.pixels) == [False, True, False, False]


@pytest.mark.parametrize(
    ("rotation", "red"),
    [
        (0, [True, False, False, False]),
        (90, [False, False, True, False]),
        (180, [False, False, False, True]),
        (-90, [False, True, False, False]),
    ],
)
def test_rotation_of_the_file_is_undone(rotation: int, red: list[bool]) -> None:
    (frame,) = sample_frames(video(frames=4, rotation=rotation), 1)
    assert corners(frame.pixels) == red


def test_large_frames_are_shrunk_to_their_shorter_side() -> None:
    (frame,) = sample_frames(video(frames=4), 1, shorter_px=24)
    assert frame.pixels.shape == (24, 32, 3)
    (frame,) = sample_frames(video(frames=4), 1, shorter_px=500)
    assert frame.pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_missing_file_a_folder_and_an_empty_file_are_different_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert refused(tmp_path / "none.mp4").reason == "missing"
    assert refused(tmp_path).reason == "missing"
    assert refused(tmp_path / "empty.mp4").reason == "empty"


def test_an_image_and_a_text_are_no_videos() -> None:
    assert refused(b"\xff\xd8\xff\xe0 and so on" * 50).reason == "not_a_video"
    assert refused(b"hello " * 1000).reason == "not_a_video"


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
    ],
)
def test_a_playlist_cannot_open_another_file(tmp_path: Path, playlist: str) -> None:
    (tmp_path / "other.ts").write_bytes(video(container="mpegts"))
    (tmp_path / "list.mp4").write_text(playlist.format(tmp_path / "other.ts"))
    assert refused(tmp_path / "list.mp4").reason == "not_a_video"


def test_a_name_is_never_read_as_an_address(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(video(frames=4))
    assert refused(f"concat:{tmp_path / 'clip.mp4'}").reason == "missing"
    assert refused(f"file:{tmp_path / 'clip.mp4'}").reason == "missing"


def test_half_a_file_is_truncated() -> None:
    content = video(noise=200)
    error = refused(content[: len(content) // 2])
    assert error.reason == "truncated"
    assert "of 50 frames are there" in str(error)


def test_limits_name_the_value_and_what_would_be_right() -> None:
    content = video()
    large = refused(content, max_pixels=1000)
    assert large.reason == "too_large"
    assert "64 x 48 pixels" in str(large)
    assert "1,000" in str(large)
    assert refused(content, max_length_s=1.0).reason == "too_long"
    assert refused(content, max_wait_s=-1.0).reason == "too_slow"


def test_damaged_videos_give_frames_or_a_data_error_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    outcomes = set()
    for container, codec in [("mp4", "h264"), ("webm", "libvpx-vp9"), ("mpegts", "h264")]:
        content = video(container=container, codec=codec, frames=20, noise=100)
        for _ in range(40):
            damaged = np.frombuffer(content, np.uint8).copy()
            hits = random.integers(0, len(damaged), 20)
            damaged[hits] = random.integers(0, 256, 20)
            try:
                assert len(sample_frames(damaged.tobytes(), 4)) == 4
                outcomes.add("frames")
            except DataError as error:
                outcomes.add(error.reason)
    assert "frames" in outcomes
    assert len(outcomes) >= 3


def test_a_strip_is_cut_along_its_longer_side() -> None:
    frames = [np.full((4, 5, 3), n, np.uint8) for n in range(6)]
    for axis in (0, 1):
        for cut, frame in zip(cut_strip(np.concatenate(frames, axis), 6), frames, strict=True):
            np.testing.assert_array_equal(cut, frame)


def test_a_strip_that_cannot_be_cut_evenly_is_bad() -> None:
    with pytest.raises(DataError, match="31 x 4 pixels cannot be cut into 6") as caught:
        cut_strip(np.zeros((4, 31, 3), np.uint8), 6)
    assert caught.value.reason == "bad_strip"
