import os
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import Source
from coca.search.ingest.sources import read_annotation
from tiny_data import image_bytes


def fill(folder: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def open_folder(path: Path) -> Source:
    return open_source(FolderConfig(path=str(path)))


def test_training_and_search_read_the_same_captions(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.txt": "one\ntwo", "a.json": '{"caption": "three", "n": 1}'}
    fill(tmp_path, {"a.png": image_bytes(1), **files})
    sample, annotation = open_folder(tmp_path).read(0), read_annotation(tmp_path / "a.png")
    assert annotation.caption == sample.captions[0]
    assert annotation.metadata == {**sample.metadata, "captions": list(sample.captions)}


def test_an_image_that_vanishes_makes_a_bad_sample(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": image_bytes(1), "b.png": image_bytes(2)})
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    source = open_folder(tmp_path)
    (tmp_path / "b.png").unlink()
    for row in (1, 2):
        with pytest.raises(DataError, match="is missing") as caught:
            source.read(row)
        assert caught.value.reason == "missing"
    assert source.read(0).key == "a"


def test_a_missing_folder_is_reported_with_the_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kind: shards"):
        open_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["b.png", "a.txt", "a.json"])
def test_a_fifo_is_a_bad_sample_and_leaves_the_others(tmp_path: Path, name: str) -> None:
    fill(tmp_path, {"a.png": image_bytes(1), "c.png": image_bytes(2)})
    os.mkfifo(tmp_path / name)
    source = open_folder(tmp_path)
    results = source.read_many(range(len(source)))
    bad = [one for one in results if isinstance(one, DataError)]
    assert len(bad) == 1
    assert f"{name} cannot be read: it is a FIFO" in str(bad[0])


def test_images_of_one_name_are_refused_with_another_between_them(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.old.jpg", "a.png"):
        (tmp_path / name).write_bytes(image_bytes(0))
    with pytest.raises(DataError, match=r"a\.jpg and a\.png in .* share their name"):
        open_source(FolderConfig(path=str(tmp_path)))
