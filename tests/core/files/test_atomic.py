import errno
import hashlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coca.core.errors import StorageError
from coca.core.files.atomic import (
    append_line,
    atomic_folder,
    read_json,
    sha256_file,
    user_cache,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class BrokenError(Exception):
    """What a body raises in these tests."""


@pytest.mark.parametrize(
    ("setting", "folder"), [("/elsewhere", "/elsewhere"), ("", "/home/anna/.cache"), (None, None)]
)
def test_the_cache_is_in_the_folder_of_the_environment_or_of_the_user(
    setting: str | None, folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if setting is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
    assert user_cache() == Path(folder or "/home/anna/.cache") / "coca"


# --- write_atomic ---


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "b").stat().st_mode
    )


def test_a_failed_write_keeps_the_old_file_and_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"/a cannot be written: No space left on device"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_file_in_place_of_a_parent_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(StorageError, match=r"a/b cannot be written"):
        write_atomic(tmp_path / "a" / "b", b"")
    with pytest.raises(StorageError, match=r"a/b cannot be written"):
        append_line(tmp_path / "a" / "b", "x")


# --- atomic_folder ---


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "step-1"
    with atomic_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_bytes(b"w")
        assert folder.parent == target.parent
        assert not target.exists()
    assert (target / "sub" / "weights").read_bytes() == b"w"
    assert names(tmp_path / "runs") == ["step-1"]


def test_a_failing_body_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "old").touch()
    with pytest.raises(BrokenError), atomic_folder(tmp_path / "a"):
        raise BrokenError
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["old"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a") as folder:
            (folder / content).touch()
    assert names(tmp_path / "a") == ["new"]
    assert names(tmp_path) == ["a"]


def test_the_rest_of_a_killed_run_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".incomplete-a" / "deep").mkdir(parents=True)
    (tmp_path / ".replaced-a" / "deep").mkdir(parents=True)
    with atomic_folder(str(tmp_path / "a")) as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["a"]


def test_a_file_in_place_of_a_folder_is_reported_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with (
        pytest.raises(StorageError, match=r"a cannot be written: a file of that name"),
        atomic_folder(tmp_path / "a"),
    ):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["a"]


def test_a_full_disk_in_the_body_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"a cannot be written: No space left"),
        atomic_folder(tmp_path / "a"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_a_foreign_file_that_the_body_cannot_read_is_not_blamed_on_the_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "a"):
        (tmp_path / "input").read_bytes()


# --- append_line ---


def test_lines_follow_each_other(tmp_path: Path) -> None:
    append_line(tmp_path / "logs" / "bad.jsonl", "one")
    append_line(str(tmp_path / "logs" / "bad.jsonl"), "zwei ü")
    assert (tmp_path / "logs/bad.jsonl").read_text(encoding="utf-8") == "one\nzwei ü\n"


def test_a_half_line_of_a_killed_writer_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('whole\n{"half": ')
    append_line(tmp_path / "log", "next")
    assert (tmp_path / "log").read_text().splitlines() == ["whole", '{"half": ', "next"]


def test_many_writers_lose_no_line(tmp_path: Path) -> None:
    lines = [f"{number} " + "x" * 200 for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: append_line(tmp_path / "log", line), lines))
    # A reader that checks for half lines may close one twice, so empty lines are allowed.
    written = (tmp_path / "log").read_text().splitlines()
    assert sorted(filter(None, written)) == sorted(lines)


# --- sha256_file ---


@given(content=st.binary(max_size=100))
def test_the_digest_is_that_of_the_content(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("digest") / "file"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_a_killed_writer_leaves_the_old_file_or_the_new_one_but_no_part(tmp_path: Path) -> None:
    target = tmp_path / "a"
    program = (
        "import os, sys; from coca.core.files.atomic import write_atomic\n"
        "write_atomic(sys.argv[1], b'o' * 1000)\n"
        "real, os.fsync = os.fsync, lambda descriptor: os._exit(9)\n"
        "write_atomic(sys.argv[1], b'n' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == 9
    assert target.read_bytes() == b"o" * 1000


def test_json_of_a_stranger_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
    for text in ("{", "[" * 100_000 + "]" * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"Expecting|nested too deeply"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
