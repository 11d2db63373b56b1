import json
from pathlib import Path

import pytest

from coca.core.errors import DataError
from coca.search.ingest.local_files import Annotation, find_pictures, read_sidecars


def test_pictures_are_found_in_all_folders_sorted_and_once(tmp_path: Path) -> None:
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
    found = find_pictures([tmp_path, tmp_path / "a", tmp_path / "b.JPG"])
    expected = ["a/b/c.webp", "a/z.png", "a.jpeg", "b.JPG"]
    assert found == sorted((tmp_path / name for name in expected), key=str)


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "picture").touch()
    assert find_pictures([tmp_path / "picture"]) == [tmp_path / "picture"]


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*absent"):
        find_pictures([tmp_path / "absent"])


@pytest.mark.parametrize(
    ("text", "sidecar", "annotation"),
    [
        (None, None, Annotation()),
        ("\n a cat \nmore", None, Annotation("a cat")),
        ("\ufeffa cat", None, Annotation("a cat")),
        ("", {"caption": "a dog", "n": 1}, Annotation("a dog", {"n": 1})),
        ("a cat", {"caption": "a dog"}, Annotation("a cat", {"captions": ["a cat", "a dog"]})),
        ("a", {"captions": ["b", "a"]}, Annotation("a", {"captions": ["a", "b"]})),
        (None, {"captions": ["a", " b "]}, Annotation("a", {"captions": ["a", "b"]})),
        (None, {"caption": "b", "captions": ["a", "b"]}, Annotation("b", {"captions": ["b", "a"]})),
        (None, {"caption": None, "captions": None}, Annotation()),
        (None, {"metadata": {"n": 1}, "m": 2}, Annotation("", {"n": 1, "m": 2})),
    ],
)
def test_words_beside_a_picture_are_read(
    tmp_path: Path, text: str | None, sidecar: object, annotation: Annotation
) -> None:
    if text is not None:
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    if sidecar is not None:
        (tmp_path / "a.json").write_text(json.dumps(sidecar))
    assert read_sidecars(tmp_path / "a.jpg") == annotation


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"[1]", "must hold a JSON object"),
        ("a.json", b'{"caption": 1}', "a text and `captions` a list of texts"),
        ("a.json", b'{"caption": "x", "captions": "y"}', "a list of texts"),
        ("a.json", b'{"metadata": 1}', "`metadata` must be an object"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_words_that_cannot_be_read_are_bad_data(
    tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=fault) as caught:
        read_sidecars(tmp_path / "a.jpg")
    assert caught.value.reason == "bad_sidecar"
