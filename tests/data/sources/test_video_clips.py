import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import DataError
from coca.data.sources.annotated import AnnotatedSample
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.data.sources.video_clips import ClipFolder, ClipSource, VideosConfig
from coca.processing.image import decode
from coca.processing.video import as_file, sample_frames, spread
from tiny_video import number_of, video


def settings(**values: Any) -> VideosConfig:
    return VideosConfig(path="unused", **values)


def numbers(images: tuple[bytes, ...]) -> list[int]:
    return [number_of(decode(image).permute(1, 2, 0).numpy()) for image in images]


def test_a_clip_is_read_as_its_frames_without_loss(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(video())
    clip = AnnotatedSample("a", str(tmp_path / "a.mp4"), ("falls",), ("fall",), {"votes": 3})
    source = ClipSource([clip], config=settings(frames=5))
    sample = source.read(0)
    assert numbers(sample.images) == spread(50, 5)
    assert (sample.key, sample.captions, sample.labels) == ("a", ("falls",), ("fall",))
    for image, frame in zip(sample.images, sample_frames(tmp_path / "a.mp4", 5), strict=True):
        np.testing.assert_array_equal(decode(image).permute(1, 2, 0).numpy(), frame.pixels)
    assert pickle.loads(pickle.dumps(source)).read(0) == sample


def test_a_folder_of_images_is_a_clip_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        pixels = np.full((8, 8, 3), number * 4, np.uint8)
        (tmp_path / f"frame_{number}.bmp").write_bytes(as_file(pixels))
    (tmp_path / "notes.txt").write_text("no frame")
    source = ClipSource([AnnotatedSample("a", str(tmp_path))], config=settings(frames=4))
    assert numbers(source.read(0).images) == spread(12, 4)


def test_metadata_need_no_video() -> None:
    source = ClipSource([AnnotatedSample("a", "/nowhere.mp4", labels=("run",))], config=settings())
    assert source.read_metadata(0).labels == ("run",)
    with pytest.raises(DataError, match="nowhere") as caught:
        source.read(0)
    assert caught.value.reason == "missing"


def test_two_clips_of_one_name_are_distinguished_by_their_folder_or_refused(tmp_path: Path) -> None:
    for folder in ("run", "walk"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").write_bytes(b"")
    folder_of_clips = ClipFolder(str(tmp_path))
    assert folder_of_clips.find("walk/a.mp4") == str(tmp_path / "walk/a.mp4")
    with pytest.raises(DataError, match="2 clips") as caught:
        folder_of_clips.find("a")
    assert caught.value.reason == "ambiguous"


def write_strip(folder: Path, frames: int = 8) -> None:
    folder.mkdir()
    levels = np.repeat(np.arange(frames, dtype=np.uint8) * 10, 6)
    strip = np.broadcast_to(levels[None, :, None], (6, 6 * frames, 3))
    (folder / "wave.bmp").write_bytes(as_file(np.ascontiguousarray(strip)))


def test_strips_of_any_source_become_samples_of_frames(tmp_path: Path) -> None:
    write_strip(tmp_path / "wave")
    config = FolderConfig(path=str(tmp_path), strip=8, frames=3)
    sample = open_source(config).read(0)
    assert [int(decode(image)[0, 0, 0]) for image in sample.images] == [
        10 * position for position in spread(8, 3)
    ]
    assert sample.labels == ("wave",)
    assert decode(sample.image).shape == (3, 6, 6)
    assert open_source(config).read_metadata(0).labels == ("wave",)


def test_a_strip_of_another_length_is_a_bad_sample(tmp_path: Path) -> None:
    write_strip(tmp_path / "wave")
    source = open_source(FolderConfig(path=str(tmp_path), strip=7, frames=3))
    with pytest.raises(DataError, match="cannot be cut into 7"):
        source.read(0)


def test_the_topmost_folder_is_the_label_of_videos_and_of_frame_folders(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "1.mp4").write_bytes(video(frames=8))
    (tmp_path / "walk" / "2").mkdir(parents=True)
    for number, frame in enumerate(sample_frames(video(frames=8), 4)):
        (tmp_path / "walk" / "2" / f"{number}.bmp").write_bytes(as_file(frame.pixels))
    source = open_source(VideosConfig(path=str(tmp_path), frames=4))
    film, folder = (source.read(row) for row in range(2))
    assert (film.labels, folder.labels) == (("run",), ("walk",))
    assert film.images == folder.images


def test_a_damaged_video_is_a_bad_sample_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all, and long enough to look at")
    (tmp_path / "b.mp4").write_bytes(video(frames=4))
    source = open_source(VideosConfig(path=str(tmp_path), frames=2))
    with pytest.raises(DataError, match=r"a\.mp4") as caught:
        source.read(0)
    assert caught.value.reason == "not_a_video"
    assert len(source.read(1).images) == 2


def test_a_folder_without_videos_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no video"):
        open_source(VideosConfig(path=str(tmp_path)))
