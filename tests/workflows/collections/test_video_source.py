import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.search.ingest.sources.image_metadata import read_header
from coca.workflows.collections.image_sources import open_sources
from coca.workflows.collections.source_uris import resolve_uris
from coca.workflows.collections.video_source import VideoSource

pytest.importorskip("av")
from tiny_video import video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clips" / "a.mp4"
    path.parent.mkdir()
    path.write_bytes(video())
    return path


def test_a_video_is_a_frame_every_few_seconds_in_one_album(clip: Path) -> None:
    clip.with_suffix(".json").write_text(json.dumps({"caption": "a film", "tags": ["x"]}))
    source = VideoSource([clip.parent], frame_interval_s=0.5)
    (entry,) = source.entries()
    frames = list(source.series(entry))
    assert len(frames) > 2
    seconds = [frame.annotation.metadata["seconds"] for frame in frames]
    assert seconds[0] == 0
    assert all(0.4 < later - one < 0.6 for one, later in pairwise(seconds))
    assert frames[1].path == f"{clip}#t={seconds[1]:g}"
    assert {frame.annotation.album for frame in frames} == {str(clip)}
    assert {frame.annotation.caption for frame in frames} == {""}
    assert frames[0].annotation.metadata["video_caption"] == "a film"
    assert frames[0].annotation.tags == ("x",)
    assert read_header(frames[0].data).width > 0
    # The same frames each time: their bytes are what records go by.
    assert [frame.data for frame in source.series(entry)] == [frame.data for frame in frames]


def test_the_stamp_changes_with_the_step(clip: Path) -> None:
    stamps = {VideoSource([clip], frame_interval_s=s).entries()[0].etag for s in (0.5, 1.0, 0.5)}
    assert len(stamps) == 2


def test_broken_videos_are_bad_data(clip: Path) -> None:
    clip.write_bytes(b"no film")
    source = VideoSource([clip], frame_interval_s=1.0)
    with pytest.raises(DataError, match=r"a\.mp4"):
        list(source.series(source.entries()[0]))
    clip.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(source.series(source.entries()[0]))
    assert source.has_lost(str(clip), "")


def test_a_folder_may_be_named_in_any_way(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    source = VideoSource(["../clips"], frame_interval_s=1.0)
    assert [entry.path for entry in source.entries()] == [str(clip)]
    clip.unlink()
    assert source.has_lost(str(clip), "")


def test_a_folder_with_videos_is_two_sources_unless_videos_are_unwanted(clip: Path) -> None:
    assert [len(one.entries()) for one in open_sources(resolve_uris([clip.parent]))] == [0, 1]
    assert [
        len(one.entries())
        for one in open_sources(resolve_uris([clip.parent]), frame_interval_s=0.0)
    ] == [0]
    assert [len(one.entries()) for one in open_sources(resolve_uris([clip]))] == [1]


def test_videos_in_a_folder_are_left_out_aloud_where_nothing_reads_them(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(open_sources(resolve_uris([clip.parent]))) == 1
    assert "1 videos are skipped: pip install 'coca-captioners[video]'" in caplog.text
