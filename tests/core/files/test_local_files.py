import logging
import os
from pathlib import Path

import pytest

from coca.core.files.local_files import file_etag, modified_at, walk_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path, *suffixes: str) -> list[str]:
    return [os.path.relpath(path, folder) for path in walk_files(folder, suffixes or None)]


def test_files_are_found_in_one_order_each_folder_before_its_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "b/2.png", "b/10.txt", "a/c/1.PNG", "a.png")
    assert names(tmp_path) == ["a.png", "z.png", "a/c/1.PNG", "b/10.txt", "b/2.png"]
    assert names(tmp_path, ".png") == ["a.png", "z.png", "a/c/1.PNG", "b/2.png"]


def test_hidden_files_and_folders_are_skipped_but_not_a_hidden_top(tmp_path: Path) -> None:
    top = tmp_path / ".cache"
    touch(top, "a.png", "._a.png", ".thumbnails/b.png", "c/.d/e.png")
    assert names(top) == ["a.png"]
    assert names(tmp_path) == []


def test_links_to_files_are_files_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    touch(other, "a.png", "b/c.png")
    touch(folder, "own.png")
    (folder / "file.png").symlink_to(other / "a.png")
    (folder / "broken.png").symlink_to(other / "nowhere.png")
    (folder / "folder").symlink_to(other)
    (folder / "loop").symlink_to(folder)
    assert names(folder) == ["broken.png", "file.png", "own.png"]
    (tmp_path / "link").symlink_to(other)
    assert names(tmp_path / "link") == ["a.png", "b/c.png"]


def test_a_folder_that_cannot_be_read_is_logged_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.png", "b/c.png")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == ["a.png"]
    assert f"folder {tmp_path / 'b'} is left out: Permission denied" in caplog.text


def test_an_etag_changes_with_size_and_with_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    os.utime(path, ns=(0, 7_000_000_001))
    first = file_etag(path)
    assert first == file_etag(str(path)) == "1-7000000001"
    path.write_bytes(b"12")
    os.utime(path, ns=(0, 7_000_000_001))
    second = file_etag(path)
    os.utime(path, ns=(0, 7_000_000_002))
    assert len({first, second, file_etag(path)}) == 3
    assert modified_at(path) == 7


@pytest.mark.parametrize("path", ["absent.jpg", "a\0.jpg", "https://example.org/a.jpg", ""])
def test_what_is_no_local_file_has_no_etag_and_no_time(path: str) -> None:
    assert (file_etag(path), modified_at(path)) == ("", 0)
