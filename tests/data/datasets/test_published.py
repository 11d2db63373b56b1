"""Lists of captions and clips as they are published: bad rows stay rows, and splits are chosen."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.annotated import SplitAnnotationsConfig
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source, SourceConfig
from coca.data.sources.video_clips import ClipsConfig, ListedClipsConfig, SplitClipsConfig
from tiny_data import image_bytes
from tiny_video import video


class Format(NamedTuple):
    """How a format is written, and what its rows are."""

    write: Callable[[Path], SourceConfig]
    good: dict[str, dict[str, Any]]
    """Key to fields, in the order of the rows."""
    faults: list[tuple[str, str]]
    """Reason and name of each bad row, in their order."""
    split: tuple[str, ...] = ()
    of_split: tuple[str, ...] = ()
    splits: str = ""


def put(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


COCO: dict[str, list[Any]] = {
    "images": [
        {"id": 7, "file_name": "7.jpg", "domain": "in-domain"},
        {"id": 3, "file_name": "3.jpg", "domain": "out-domain"},
        {"id": 4, "file_name": "4.jpg", "domain": "out-domain"},
        {"id": 9},
    ],
    "annotations": [
        {"id": 0, "image_id": 3, "caption": "a cat "},
        {"id": 1, "image_id": 7, "caption": "a dog"},
        {"id": 2, "image_id": 3, "caption": "a small cat"},
        {"image_id": 7},
        {"image_id": 99, "caption": "lost"},
        "x",
    ],
}


def write_coco(folder: Path) -> SplitAnnotationsConfig:
    put(folder / "photos", **{f"{number}.jpg": image_bytes(number) for number in (3, 4, 7)})
    put(folder, **{"captions.json": json.dumps(COCO).encode()})
    path, images = str(folder / "captions.json"), str(folder / "photos")
    return SplitAnnotationsConfig(kind="coco_captions", path=path, images=images)


def image(name: str, split: str, *captions: str, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": text, "tokens": text.split()} for text in captions]
    return {"filename": name, "split": split, "imgid": 3, "sentences": sentences, **more}


KARPATHY = [
    image("a.jpg", "train", "one ", "two"),
    image("b.jpg", "test", "three", filepath="val2014", cocoid=7),
    image("c.jpg", "restval", "four"),
    image("gone.jpg", "test", "five"),
    7,
    {"split": "test"},
    {"filename": "e.jpg", "split": "test", "sentences": ["raw"]},
]


def write_karpathy(folder: Path) -> SplitAnnotationsConfig:
    names = ("a.jpg", "val2014/b.jpg", "c.jpg")
    put(folder / "photos", **{name: image_bytes(number) for number, name in enumerate(names)})
    put(folder, **{"dataset.json": json.dumps({"images": KARPATHY}).encode()})
    path, images = str(folder / "dataset.json"), str(folder / "photos")
    return SplitAnnotationsConfig(kind="karpathy", path=path, images=images)


KINETICS = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,train
"answering, questions",--3ouPhoy2A,20,30,train
juggling,--4-0ihtnBU,58,68,validate
juggling,gone_from_YT,1,11,train
too,few
juggling,--4-0ihtnBU,soon,later,train
"""


def write_kinetics(folder: Path) -> SplitClipsConfig:
    # A clip is found in any folder by its name.
    paths = ["testifying/---QUuC4vJs_000084_000094.mp4", "--3ouPhoy2A_000020_000030.mp4"]
    clips = {path: video(frames=4) for path in (*paths, "val/--4-0ihtnBU_000058_000068.mp4")}
    put(folder, **clips, **{"all.csv": KINETICS.encode()})
    return SplitClipsConfig(kind="kinetics", path=str(folder / "all.csv"), frames=2)


MOMENTS = "sing+along/x-1_10.mp4,sing+along,3,0\njumping/y.mp4,jumping,4,1\nx\n"


def write_moments(folder: Path) -> ListedClipsConfig:
    put(folder / "training", **{"sing+along/x-1_10.mp4": video(frames=4)})
    put(folder, **{"train.csv": MOMENTS.encode()})
    path, images = str(folder / "train.csv"), str(folder / "training")
    return ListedClipsConfig(kind="moments", path=path, images=images, frames=2)


MSRVTT: dict[str, list[Any]] = {
    "videos": [
        {"video_id": "video0", "split": "train", "category": 9, "url": "unused"},
        {"video_id": "video7010", "split": "test", "category": 3},
        {"video_id": "video7011", "split": "test", "category": 4},
        "video1",
    ],
    "sentences": [
        {"video_id": "video7010", "caption": "a man walks", "sen_id": 1},
        {"video_id": "video0", "caption": "a car", "sen_id": 2},
        {"video_id": "video7010", "caption": "somebody is walking ", "sen_id": 3},
    ],
}


def write_msrvtt(folder: Path) -> SplitClipsConfig:
    put(folder / "films", **{f"video{number}.mp4": video(frames=4) for number in (0, 7010)})
    put(folder, **{"info.json": json.dumps(MSRVTT).encode()})
    path, films = str(folder / "info.json"), str(folder / "films")
    return SplitClipsConfig(kind="msrvtt", path=path, images=films, frames=2)


FORMATS = [
    Format(
        write_coco,
        {
            "7": {"captions": ("a dog",)},
            "3": {
                "captions": ("a cat", "a small cat"),
                "image": image_bytes(3),
                "metadata": {"image_id": 3, "domain": "out-domain"},
            },
            "4": {"captions": ()},
        },
        [("bad_record", it) for it in ("image 3", "annotation 3", "annotation 5", "image 99")],
        split=("out-domain",),
        of_split=("3", "4"),
        splits=r"in-domain \(1\), .*out-domain \(2\)",
    ),
    Format(
        write_karpathy,
        {
            "a": {"captions": ("one", "two"), "image": image_bytes(0)},
            "b": {"image": image_bytes(1), "metadata": {"split": "test", "cocoid": 7}},
            "c": {"captions": ("four",)},
        },
        [("missing", "gone.jpg"), *[("bad_record", f"image {n} of") for n in (4, 5, 6)]],
        split=("train", "restval"),
        of_split=("a", "c"),
        splits=r"restval \(1\), test \(\d\), train \(1\)",
    ),
    Format(
        write_kinetics,
        {
            "---QUuC4vJs_000084_000094": {"labels": ("testifying",)},
            "--3ouPhoy2A_000020_000030": {"labels": ("answering, questions",)},
            "--4-0ihtnBU_000058_000068": {"labels": ("juggling",)},
        },
        [("missing", "gone_from_YT_000001_000011"), ("bad_record", ""), ("bad_record", "")],
        split=("validate",),
        of_split=("--4-0ihtnBU_000058_000068",),
        splits=r"train \(\d\), validate \(1\)",
    ),
    Format(
        write_moments,
        {
            "sing+along/x-1_10.mp4": {
                "labels": ("sing along",),
                "metadata": {"agreed": "3", "disagreed": "0"},
            }
        },
        [("missing", "is called y"), ("bad_record", "row 2 of")],
    ),
    Format(
        write_msrvtt,
        {
            "video0": {"captions": ("a car",)},
            "video7010": {
                "captions": ("a man walks", "somebody is walking"),
                "metadata": {"split": "test", "category": 3},
            },
        },
        [("missing", "video7011"), ("bad_record", "video 3 of")],
        split=("test",),
        of_split=("video7010",),
        splits=r"test \(2\), train \(1\)",
    ),
]
SPLIT = [it for it in FORMATS if it.split]


def good_of(source: Source) -> dict[str, Sample]:
    rows = source.read_many(range(len(source)))
    return {it.key: it for it in rows if isinstance(it, Sample)}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.write.__name__)
def test_each_row_is_a_sample_or_a_fault_that_names_it(tmp_path: Path, form: Format) -> None:
    config = form.write(tmp_path)
    source = open_source(config)
    rows = source.read_many(range(len(source)))
    assert list(good_of(source)) == list(form.good)
    for row, sample in enumerate(rows):
        if isinstance(sample, Sample):
            fields = form.good[sample.key]
            assert {name: getattr(sample, name) for name in fields} == fields
            assert len(sample.images) == (2 if isinstance(config, ClipsConfig) else 1)
            assert source.read_metadata(row) == replace(sample, image=b"", others=())
    faults = [it for it in rows if isinstance(it, DataError)]
    assert [it.reason for it in faults] == [reason for reason, _ in form.faults]
    for fault, (_, name) in zip(faults, form.faults, strict=True):
        assert name in str(fault)


@pytest.mark.parametrize("form", SPLIT, ids=lambda form: form.write.__name__)
def test_a_split_is_its_rows_and_another_is_refused_with_those_there_are(
    tmp_path: Path, form: Format
) -> None:
    config = form.write(tmp_path)
    assert isinstance(config, SplitAnnotationsConfig)
    of_split = open_source(config.replace(split=form.split))
    assert tuple(good_of(of_split)) == form.of_split
    with pytest.raises(DataError, match=f"'nowhere'.*{form.splits}"):
        open_source(config.replace(split="nowhere"))
    prints = {open_source(config).fingerprint, of_split.fingerprint}
    assert open_source(config).fingerprint in prints
    path = Path(config.paths[0])
    path.write_text(path.read_text().replace("cat", "cow").replace("a car", "a bus") + "\n")
    assert len(prints | {open_source(config).fingerprint}) == 3


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("karpathy", "[1]", "must contain a JSON object, got a list"),
        ("karpathy", "{", "is not JSON"),
        ("karpathy", '{"annotations": []}', "no list called 'images', but annotations"),
        ("kinetics", "image,label\na.jpg,cat\n", "no column youtube_id"),
        ("msrvtt", '{"videos": [], "sentences": [{"caption": "whose?"}]}', "sentence 0 of"),
    ],
)
def test_a_file_of_another_format_is_reported(
    tmp_path: Path, kind: str, content: str, message: str
) -> None:
    path = tmp_path / ("x.csv" if kind == "kinetics" else "x.json")
    path.write_text(content)
    config = SplitAnnotationsConfig if kind == "karpathy" else SplitClipsConfig
    with pytest.raises(DataError, match=message):
        open_source(config(kind=kind, path=str(path)))


def test_the_test_split_of_kinetics_has_no_labels(tmp_path: Path) -> None:
    config = write_kinetics(tmp_path)
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end\n---QUuC4vJs,84,94\n")
    assert open_source(config.replace(path=str(tmp_path / "test.csv"))).read(0).labels == ()


def test_the_list_1k_a_of_msrvtt_has_one_sentence_a_video(tmp_path: Path) -> None:
    config = write_msrvtt(tmp_path)
    (tmp_path / "jsfusion.csv").write_text(
        "key,vid_key,video_id,sentence\nret0,msr7010,video7010,a person walks\nret1,msr1,,nothing\n"
    )
    source = open_source(config.replace(path=str(tmp_path / "jsfusion.csv")))
    assert source.read(0).captions == ("a person walks",)
    with pytest.raises(DataError, match="lacks a video_id"):
        source.read(1)
