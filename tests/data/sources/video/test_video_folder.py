from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.video.video_folder import VideosConfig
from coca.processing.video import as_file, sample_frames
from tiny_video import video


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
    with pytest.raises(DataError, match="holds no video"):
        open_source(VideosConfig(path=str(tmp_path)))
