import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sources.annotated import SplitAnnotationsConfig
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from tiny_data import image_bytes


def image(name: str, split: str, *captions: str, folder: str = "") -> dict[str, Any]:
    entry: dict[str, Any] = {"filename": name, "split": split, "imgid": 3}
    entry["sentences"] = [{"raw": text, "tokens": text.split()} for text in captions]
    return entry | ({"filepath": folder, "cocoid": 7} if folder else {})


IMAGES = [
    image("a.jpg", "train", "one ", "two"),
    image("b.jpg", "test", "three"),
    image("c.jpg", "restval", "four"),
    image("d.jpg", "val", "five"),
]


def write(root: Path, images: list[Any], *, folder: str = "") -> SplitAnnotationsConfig:
    for number, entry in enumerate(images):
        if isinstance(entry, dict) and "filename" in entry:
            path = root / folder / entry.get("filepath", "") / entry["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes(number))
    path = root / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "tiny"}))
    images_at = str(root / folder) if folder else ""
    return SplitAnnotationsConfig(kind="karpathy", path=str(path), images=images_at)


def opened(config: SplitAnnotationsConfig, *splits: str) -> Source:
    return open_source(replace(config, split=splits))


def test_a_split_is_its_images_with_all_sentences_in_the_order_of_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, IMAGES)
    both = opened(config, "train", "restval")
    assert [both.key(row) for row in range(len(both))] == ["a", "c"]
    assert both.read(0).captions == ("one", "two")
    assert both.read(1).image == image_bytes(2)
    assert len(opened(config)) == 4


def test_a_folder_within_the_file_is_below_the_folder_of_the_images(tmp_path: Path) -> None:
    config = write(tmp_path, [image("x.jpg", "test", "a", folder="val2014")], folder="photos")
    sample = opened(config, "test").read(0)
    assert (sample.image, sample.metadata) == (image_bytes(0), {"split": "test", "cocoid": 7})


@pytest.mark.parametrize(
    "broken", [7, {"split": "test"}, {"filename": "e.jpg", "split": "test", "sentences": ["raw"]}]
)
def test_a_malformed_entry_keeps_its_position_and_is_named(tmp_path: Path, broken: Any) -> None:
    config = write(tmp_path, [*IMAGES, broken])
    source = opened(config, "test")
    assert [source.key(row) for row in range(2)] == ["b", "1"]
    with pytest.raises(DataError, match=r"image 4 of .*dataset.json is malformed"):
        source.read(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "must contain a JSON object, got a list"),
        ("{", "is not JSON"),
        ('{"annotations": []}', "no list called 'images', but annotations"),
    ],
)
def test_a_file_of_another_format_is_reported(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_source(SplitAnnotationsConfig(kind="karpathy", path=str(tmp_path / "x.json")))


def test_the_fingerprint_distinguishes_files_and_splits(tmp_path: Path) -> None:
    config = write(tmp_path, IMAGES)
    other = write(tmp_path / "other", IMAGES[:2])
    prints = {
        opened(config).fingerprint,
        opened(config, "train").fingerprint,
        opened(other).fingerprint,
    }
    assert len(prints) == 3
    assert opened(config).fingerprint == opened(config).fingerprint
