import os
from pathlib import Path

import pytest

from coca.core.files.absence import Roots, doubt, is_gone, nearest


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


@pytest.mark.parametrize("count", [1, 1_000])
def test_a_question_takes_as_many_steps_among_many_roots_as_with_one(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 records against 1,000 files that are named took two minutes by comparing them all."""
    roots = Roots(f"/photos/{n}.png" for n in range(count))
    steps: list[str] = []
    dirname = os.path.dirname

    def counted(path: str) -> str:
        steps.append(path)
        return dirname(path)

    monkeypatch.setattr(os.path, "dirname", counted)
    assert roots.above("/photos/2020/a.png") is None
    assert len(steps) == 4


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
