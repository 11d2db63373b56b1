from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source, read_metadata
from coca.data.sources.video_clips import ListedClipsConfig, SplitClipsConfig
from tiny_video import video

CSV = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,train
"answering, questions",--3ouPhoy2A,20,30,train
juggling,--4-0ihtnBU,58,68,validate
juggling,gone_from_YT,1,11,train
"""


def write_kinetics(folder: Path) -> Path:
    paths = ["testifying/---QUuC4vJs_000084_000094.mp4", "--3ouPhoy2A_000020_000030.mp4"]
    for path in (*paths, "val/--4-0ihtnBU_000058_000068.mp4"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(video(frames=4))
    (folder / "all.csv").write_text(CSV)
    return folder / "all.csv"


def open_kinetics(path: Path, split: str | tuple[str, ...] = ()) -> Source:
    return open_source(SplitClipsConfig(kind="kinetics", path=str(path), split=split, frames=2))


def test_clips_are_found_by_id_and_time_in_any_folder(tmp_path: Path) -> None:
    source = open_kinetics(write_kinetics(tmp_path))
    samples = [source.read(row) for row in range(3)]
    assert [sample.labels for sample in samples] == [
        ("testifying",),
        ("answering, questions",),
        ("juggling",),
    ]
    assert samples[0].key == "---QUuC4vJs_000084_000094"
    assert all(len(sample.images) == 2 for sample in samples)


def test_a_video_that_is_gone_is_a_bad_sample_with_its_name(tmp_path: Path) -> None:
    source = open_kinetics(write_kinetics(tmp_path))
    with pytest.raises(DataError, match="gone_from_YT_000001_000011") as caught:
        source.read(3)
    assert caught.value.reason == "missing"


def test_only_the_clips_of_a_split_are_read(tmp_path: Path) -> None:
    source = open_kinetics(write_kinetics(tmp_path), "validate")
    assert [read_metadata(source, row).labels for row in range(len(source))] == [("juggling",)]
    with pytest.raises(DataError, match=r"train \(3\), validate \(1\)"):
        open_kinetics(tmp_path / "all.csv", "test")


def test_the_test_split_without_labels_is_read_without_labels(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end\n---QUuC4vJs,84,94\n")
    assert open_kinetics(tmp_path / "test.csv").read(0).labels == ()


def test_damaged_rows_are_bad_samples(tmp_path: Path) -> None:
    write_kinetics(tmp_path)
    (tmp_path / "bad.csv").write_text(f"{CSV}too,few\njuggling,--4-0ihtnBU,soon,later,train\n")
    source = open_kinetics(tmp_path / "bad.csv")
    for row in (4, 5):
        with pytest.raises(DataError) as caught:
            source.read(row)
        assert caught.value.reason == "bad_record"


def test_another_csv_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("image,label\na.jpg,cat\n")
    with pytest.raises(DataError, match="no column youtube_id"):
        open_kinetics(tmp_path / "other.csv")


def test_moments_are_read_without_a_header_and_with_their_votes(tmp_path: Path) -> None:
    (tmp_path / "training" / "adult+female+singing").mkdir(parents=True)
    (tmp_path / "training" / "adult+female+singing" / "x-1_10.mp4").write_bytes(video(frames=4))
    (tmp_path / "train.csv").write_text(
        "adult+female+singing/x-1_10.mp4,adult+female+singing,3,0\njumping/y.mp4,jumping,4,1\nx\n"
    )
    source = open_source(
        ListedClipsConfig(
            kind="moments",
            path=str(tmp_path / "train.csv"),
            images=str(tmp_path / "training"),
            frames=2,
        )
    )
    sample = source.read(0)
    assert sample.labels == ("adult female singing",)
    assert sample.metadata == {"agreed": "3", "disagreed": "0"}
    for row, reason in ((1, "missing"), (2, "bad_record")):
        with pytest.raises(DataError) as caught:
            source.read(row)
        assert caught.value.reason == reason
