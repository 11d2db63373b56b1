import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.core.files.local_files import (
    Roots,
    check_regular,
    check_spaces,
    doubt,
    file_etag,
    is_gone,
    modified_at,
    nearest,
    open_regular,
    read_regular,
    walk_files,
)


def test_only_a_file_that_is_surely_absent_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not is_gone(str(tmp_path / "file"))
    assert is_gone(str(tmp_path / "absent"))
    assert is_gone(str(tmp_path / "absent" / "below"))
    assert not is_gone("/" + "x" * 5_000)
    assert not is_gone("a\0b")


@pytest.mark.parametrize("key", ["k0", "k0/k1", "../k0", "", "/absolute", "k0#t=5"])
def test_what_a_file_that_exists_may_hold_is_not_gone(tmp_path: Path, key: str) -> None:
    archive = tmp_path / "a.tar"
    archive.touch()
    assert not is_gone(f"{archive}/{key}")
    assert not Roots([tmp_path]).has_lost(f"{archive}/{key}")
    archive.unlink()
    if key:
        assert Roots([tmp_path]).has_lost(f"{archive}/{key}")


def test_what_is_behind_a_link_that_leads_nowhere_is_not_gone(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "drive")
    assert not is_gone(str(tmp_path / "link"))
    assert not is_gone(str(tmp_path / "link" / "k0"))
    (tmp_path / "drive").mkdir()
    assert is_gone(str(tmp_path / "link" / "k0"))


def test_relative_paths_end_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.tar").touch()
    assert [is_gone(path) for path in ("a.tar/k0", "absent", "absent/k0")] == [False, True, True]
    assert nearest("a.tar/k0/k1") == "a.tar"


def test_nothing_is_lost_with_a_root_that_is_gone_nor_outside_of_all_roots(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (root / "album").mkdir(parents=True)
    file = tmp_path / "one.png"
    roots = Roots([root / ".." / "photos", file])
    lost = [f"{root}/a.png", f"{root}/gone/a.png", f"{root}/album/a.png", str(file)]
    kept = [f"{tmp_path}/a.png", f"{root}2/a.png", f"{file}/k", "https://example.org/a.png", "a/b"]
    assert [path for path in lost + kept if roots.has_lost(path)] == lost
    (root / "album").rmdir()
    root.rmdir()
    assert [path for path in lost + kept if roots.has_lost(path)] == [str(file)]


def test_a_missing_root_has_lost_its_files_only_where_that_is_stated(tmp_path: Path) -> None:
    missing = tmp_path / "gone"
    assert not Roots([missing]).has_lost(f"{missing}/a.png")
    roots = Roots([], missing=[missing])
    assert roots.has_lost(f"{missing}/a.png")
    assert not roots.has_lost(f"{tmp_path}/a.png")


def test_what_is_missing_in_an_empty_folder_may_be_on_an_unmounted_drive(tmp_path: Path) -> None:
    assert doubt(str(tmp_path)) == "it is empty, as if its drive were not mounted"
    (tmp_path / "file").touch()
    assert doubt(str(tmp_path)) == ""


def test_what_is_missing_where_drives_are_mounted_may_be_on_an_unmounted_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    assert doubt(str(tmp_path)) == ""
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "disk"))
    assert doubt(str(tmp_path)).startswith("drives are mounted in it")


def test_what_is_missing_in_an_unreadable_folder_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    # For root, every folder is readable.
    monkeypatch.setattr(os, "scandir", refuse)
    assert doubt(str(tmp_path)) == "it cannot be read (Permission denied)"


# Only regular files are read: nothing waits for a FIFO, and nothing reads a device.


HOWS: list[Callable[[Path], object]] = [open_regular, check_regular, read_regular]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("make", "what"),
    [(fifo, "a FIFO"), (device, "a device"), (bound_socket, "a socket")],
)
def test_what_is_no_regular_file_is_neither_opened_nor_waited_for(
    tmp_path: Path, how: Callable[[Path], object], make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / "x.png")
    with pytest.raises(OSError, match=f"it is {what}, not a regular file"):
        how(tmp_path / "x.png")


@pytest.mark.parametrize("how", HOWS)
def test_folders_and_missing_files_are_refused_as_the_system_does(
    tmp_path: Path, how: Callable[[Path], object]
) -> None:
    with pytest.raises(IsADirectoryError):
        how(tmp_path)
    with pytest.raises(FileNotFoundError):
        how(tmp_path / "none")


def test_a_file_that_becomes_a_fifo_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opening = tmp_path / "x.png", os.open
    path.touch()

    def exchanged(name: str, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return opening(name, flags)

    monkeypatch.setattr(os, "open", exchanged)
    with pytest.raises(OSError, match="a FIFO"):
        open_regular(path)


@pytest.mark.parametrize("max_bytes", [None, 3, 4])
def test_a_file_within_the_limit_is_read_whole(tmp_path: Path, max_bytes: int | None) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "link"):
        assert read_regular(tmp_path / name, max_bytes=max_bytes) == b"abc"


def test_a_larger_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(OSError, match=r"1,099,511,627,776 bytes, and at most 512 are read"):
        read_regular(tmp_path / "a", max_bytes=512)


def test_a_file_of_reported_size_0_is_read_up_to_the_limit() -> None:
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("only Linux has such files")
    assert b"Name:" in read_regular(path, max_bytes=1 << 20)
    with pytest.raises(OSError, match="at most 8 are read"):
        read_regular(path, max_bytes=8)


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


def test_a_path_that_a_shell_split_is_named_with_its_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my old folder").mkdir()
    Path("a").touch()
    for begin in ("my", "data.path=my"):
        with pytest.raises(ConfigError, match="has spaces: quote it, as 'my old folder'"):
            check_spaces(["a", begin, "old", "folder"])
    check_spaces(["a", "my old folder", "b"])
