import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sources.annotated import AnnotatedSource, SplitAnnotationsConfig
from coca.data.sources.factory import open_source
from tiny_data import image_bytes

IMAGES: list[Any] = [
    {"id": 7, "file_name": "7.jpg", "domain": "in-domain"},
    {"id": 3, "file_name": "3.jpg", "domain": "out-domain"},
]
NOTES: list[Any] = [
    {"id": 0, "image_id": 3, "caption": "a cat "},
    {"id": 1, "image_id": 7, "caption": "a dog"},
    {"id": 2, "image_id": 3, "caption": "a small cat"},
]


def write(
    root: Path, images: list[Any], notes: list[Any], **settings: Any
) -> SplitAnnotationsConfig:
    (root / "photos").mkdir()
    for number in (3, 7):
        (root / "photos" / f"{number}.jpg").write_bytes(image_bytes(number))
    path = root / "captions.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    return SplitAnnotationsConfig(
        kind="coco_captions", path=str(path), images=str(root / "photos"), **settings
    )


def test_captions_find_their_images_by_number(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, IMAGES, NOTES))
    assert [source.key(row) for row in range(len(source))] == ["7", "3"]
    sample = source.read(1)
    assert (sample.captions, sample.image) == (("a cat", "a small cat"), image_bytes(3))
    assert sample.metadata == {"image_id": 3, "domain": "out-domain"}


def test_a_domain_of_nocaps_is_a_split(tmp_path: Path) -> None:
    config = write(tmp_path, IMAGES, NOTES, split="out-domain")
    source = open_source(config)
    assert [source.key(row) for row in range(len(source))] == ["3"]
    with pytest.raises(DataError, match=r"'near-domain'.*in-domain \(1\), out-domain \(1\)"):
        open_source(replace(config, split="near-domain"))


def test_what_is_malformed_or_belongs_nowhere_is_a_bad_sample_of_its_own(tmp_path: Path) -> None:
    images = [*IMAGES, {"id": 9}]
    notes = [*NOTES, {"image_id": 7}, {"image_id": 99, "caption": "lost"}, "x"]
    source = open_source(write(tmp_path, images, notes))
    assert isinstance(source, AnnotatedSource)
    errors = []
    for row in range(len(source)):
        try:
            source.read_metadata(row)
        except DataError as error:
            errors.append(str(error))
    assert len(source) - len(errors) == 2
    wanted = ("image 2", "annotation 3", "annotation 5", "image 99")
    assert all(what in it for what, it in zip(wanted, errors, strict=True))


def test_an_image_without_captions_has_none(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, IMAGES, NOTES[:1]))
    assert source.read(0).captions == ()
