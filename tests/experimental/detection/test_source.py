import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.data.sources.annotated import AnnotationsConfig
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.experimental.detection.source import BOXES
from tiny_detector import NAMES, write_instances, write_scenes

IMAGE = {"id": 5, "file_name": "0.png", "width": 32, "height": 32}
BOX = {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]}


def open_instances(path: Path) -> Source:
    return open_source(
        AnnotationsConfig(
            kind="coco_instances", path=str(path), images=str(path.parent / "pictures")
        )
    )


def test_an_image_has_its_objects_with_names_boxes_and_size(tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "scenes")
    source = open_instances(path)
    sample = source.read(0)
    notes = [a for a in json.loads(path.read_text())["annotations"] if a["image_id"] == 0]
    assert sample.labels == ("blue square", "red square")
    assert sample.metadata["width"] == sample.metadata["height"] == 32
    assert [one["box"] for one in sample.metadata[BOXES]] == [note["bbox"] for note in notes]
    assert [one["name"] for one in sample.metadata[BOXES]] == list(NAMES.values())
    assert sample.image == (path.parent / "pictures" / "0.png").read_bytes()
    assert source.read_metadata(0).metadata == sample.metadata


@pytest.mark.parametrize(
    "note",
    [
        {"image_id": 5, "category_id": 7},
        {**BOX, "category_id": 99},
        {**BOX, "bbox": [1, 2, 0, 4]},
        {**BOX, "bbox": [1, 2, 3]},
        {**BOX, "bbox": [1, 2, "wide", 4]},
        {**BOX, "bbox": [1, 2, 10**400, 4]},
        {**BOX, "image_id": 6},
        "no object",
    ],
)
def test_a_malformed_box_is_a_bad_sample_of_its_own(tmp_path: Path, note: Any) -> None:
    (tmp_path / "pictures").mkdir()
    write_instances(tmp_path / "instances.json", [IMAGE], [BOX, note])
    source = open_instances(tmp_path / "instances.json")
    assert len(source.read_metadata(0).metadata[BOXES]) == 1
    with pytest.raises(DataError) as caught:
        source.read(1)
    assert caught.value.reason == "bad_record"


def shown(path: Path, size: tuple[int, int], *, orientation: int = 1) -> Source:
    """An image of these stored sides that is listed with 64 x 48 pixels."""
    (path / "pictures").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path / "pictures" / "0.png", exif=exif)
    listed = {**IMAGE, "width": 64, "height": 48}
    write_instances(path / "instances.json", [listed], [BOX])
    return open_instances(path / "instances.json")


@pytest.mark.parametrize(
    ("size", "orientation", "message"),
    [
        ((48, 64), 1, r"0\.png has 48 x 64 pixels, but is listed with 64 x 48.*EXIF orientation"),
        ((64, 48), 8, r"0\.png has 48 x 64 pixels, but is listed with 64 x 48.*EXIF orientation"),
        ((64, 64), 1, r"0\.png has 64 x 64 pixels, but is listed with 64 x 48.*elsewhere$"),
    ],
)
def test_boxes_of_another_shape_are_not_used(
    tmp_path: Path, size: tuple[int, int], orientation: int, message: str
) -> None:
    source = shown(tmp_path, size, orientation=orientation)
    with pytest.raises(DataError, match=message) as caught:
        source.read(0)
    assert caught.value.reason == "wrong_size"
