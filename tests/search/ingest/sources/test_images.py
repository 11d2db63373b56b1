import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.search.ingest.sources.images import Annotation, find_files, read_annotation


def test_images_are_found_in_all_folders_sorted_and_once(tmp_path: Path) -> None:
    names = [
        "b.JPG",
        "a/z.png",
        "a/b/c.webp",
        "a.jpeg",
        "note.txt",
        "a.json",
        "._a.jpg",
        ".t/x.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path, tmp_path / "a", tmp_path / "b.JPG"])
    expected = ["a/b/c.webp", "a/z.png", "a.jpeg", "b.JPG"]
    assert found == sorted((tmp_path / name for name in expected), key=str)


def test_a_file_that_is_named_is_read_with_any_suffix(tmp_path: Path) -> None:
    (tmp_path / "picture").touch()
    assert find_files([tmp_path / "picture"]) == [tmp_path / "picture"]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*absent"):
        find_files([tmp_path / "absent"])


def test_the_first_caption_is_the_caption_and_several_are_metadata(tmp_path: Path) -> None:
    sidecar = {"caption": "c", "tags": "x, y", "album": "2024", "time": 7, "n": 1}
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    (tmp_path / "b.txt").write_text("a\nb")
    assert read_annotation(tmp_path / "a.jpg") == Annotation("c", {"n": 1}, ("x", "y"), "2024", 7)
    assert read_annotation(tmp_path / "b.jpg") == Annotation("a", {"captions": ["a", "b"]})
    assert read_annotation(tmp_path / "c.jpg") == Annotation()
