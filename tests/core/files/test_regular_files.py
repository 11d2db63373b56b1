"""Only regular files are read: nothing waits for a FIFO, and nothing reads a device."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from coca.core.files.regular_files import check_regular, open_regular, read_regular

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


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "b") == b"abc"


@pytest.mark.parametrize("max_bytes", [None, 3, 4])
def test_a_file_within_the_limit_is_read_whole(tmp_path: Path, max_bytes: int | None) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_regular(tmp_path / "a", max_bytes=max_bytes) == b"abc"


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
