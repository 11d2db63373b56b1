import os
import stat
from pathlib import Path

import pytest

from coca.core.errors import ConfigError, StorageError
from npm import npm_packages

PACKAGES = ("first@1.0.0", "second@2.1.0")


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that is found first and runs the script."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_npm_is_asked_for_the_pinned_versions_and_to_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = tmp_path / "arguments"
    fake_npm(
        tmp_path / "bin", f'for word in "$@"; do echo "$word"; done > {arguments}', monkeypatch
    )
    with npm_packages(PACKAGES) as folder:
        words = arguments.read_text().splitlines()
    assert words[:3] == ["install", "--prefix", str(folder.parent)]
    assert folder.name == "node_modules"
    assert not folder.parent.exists()
    assert "--ignore-scripts" in words
    assert words[-2:] == list(PACKAGES)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo first >&2; echo no network >&2; exit 1", r"first@1.*, second@2.*: no network"),
        ("exit 3", "it gave no reason"),
    ],
)
def test_the_last_line_of_a_failed_npm_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    fake_npm(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(StorageError, match=message), npm_packages(PACKAGES):
        pass


def test_a_missing_npm_is_reported_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"install Node.js, or .*"), npm_packages(PACKAGES):
        pass


def test_a_given_folder_of_packages_is_used_without_npm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with npm_packages(PACKAGES, tmp_path) as folder:
        assert folder == tmp_path
