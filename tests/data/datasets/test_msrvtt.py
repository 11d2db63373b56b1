import json
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source, read_metadata
from coca.data.sources.video_clips import SplitClipsConfig
from tiny_video import video

VIDEOS: list[Any] = [
    {"video_id": "video0", "split": "train", "category": 9, "url": "unused"},
    {"video_id": "video7010", "split": "test", "category": 3},
    {"video_id": "video7011", "split": "test", "category": 4},
]
SENTENCES = [
    {"video_id": "video7010", "caption": "a man walks", "sen_id": 1},
    {"video_id": "video0", "caption": "a car", "sen_id": 2},
    {"video_id": "video7010", "caption": "somebody is walking ", "sen_id": 3},
]


def open_msrvtt(tmp_path: Path, annotations: Any, split: str | tuple[str, ...] = ()) -> Source:
    (tmp_path / "films").mkdir(exist_ok=True)
    for name in ("video0", "video7010"):
        (tmp_path / "films" / f"{name}.mp4").write_bytes(video(frames=4))
    (tmp_path / "videodatainfo.json").write_text(json.dumps(annotations))
    return open_source(
        SplitClipsConfig(
            kind="msrvtt",
            path=str(tmp_path / "videodatainfo.json"),
            images=str(tmp_path / "films"),
            split=split,
            frames=2,
        )
    )


def test_a_video_has_all_of_its_sentences(tmp_path: Path) -> None:
    source = open_msrvtt(tmp_path, {"videos": VIDEOS, "sentences": SENTENCES}, "test")
    sample = source.read(0)
    assert (sample.key, sample.captions) == ("video7010", ("a man walks", "somebody is walking"))
    assert sample.metadata == {"split": "test", "category": 3}
    assert len(sample.images) == 2
    with pytest.raises(DataError, match="video7011") as caught:
        source.read(1)
    assert caught.value.reason == "missing"


def test_malformed_videos_are_bad_samples_and_malformed_sentences_are_reported(
    tmp_path: Path,
) -> None:
    source = open_msrvtt(tmp_path, {"videos": [*VIDEOS, "video1"], "sentences": SENTENCES})
    with pytest.raises(DataError, match="video 3 of") as caught:
        source.read(3)
    assert caught.value.reason == "bad_record"
    with pytest.raises(DataError, match="sentence 0 of"):
        open_msrvtt(tmp_path, {"videos": VIDEOS, "sentences": [{"caption": "whose?"}]})


def test_the_list_1k_a_has_one_sentence_a_video(tmp_path: Path) -> None:
    (tmp_path / "video7010.mp4").write_bytes(video(frames=4))
    (tmp_path / "jsfusion.csv").write_text(
        "key,vid_key,video_id,sentence\nret0,msr7010,video7010,a person walks\nret1,msr1,,nothing\n"
    )
    source = open_source(
        SplitClipsConfig(kind="msrvtt", path=str(tmp_path / "jsfusion.csv"), frames=2)
    )
    assert read_metadata(source, 0).captions == ("a person walks",)
    assert len(source.read(0).images) == 2
    with pytest.raises(DataError, match="lacks a video_id"):
        source.read(1)
