import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coca.core import provenance
from coca.core.config.frozen_config import digest


@dataclass(frozen=True, kw_only=True)
class Run:
    steps: int = 3


def a_record(**extra: Any) -> dict[str, Any]:
    return provenance.record(config=Run(), seed=7, data_fingerprint="f00d", extra=extra)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A module `__init__.py` in a fresh repository of one commit."""
    (tmp_path / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path / "__init__.py"


def test_a_record_holds_what_it_was_given() -> None:
    record = a_record(device="cpu", folder=Path("runs/a"))
    assert record["seed"] == 7
    assert record["data"] == "f00d"
    assert record["config"] == digest(Run())
    assert record["device"] == "cpu"
    assert record["folder"] == "runs/a"


def test_a_record_names_versions_machine_and_time() -> None:
    record = a_record()
    assert record["versions"]["python"] == platform.python_version()
    assert record["versions"]["numpy"]
    assert record["machine"]["cores"] == os.cpu_count()
    assert record["machine"]["memory_bytes"] > 1e8
    age = datetime.now(UTC) - datetime.fromisoformat(record["started"])
    assert timedelta(0) <= age < timedelta(minutes=5)


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    commit = git(checkout.parent, "rev-parse", "HEAD")
    assert provenance._code(checkout) == {"commit": commit, "dirty": False, "diff": None}


def test_a_change_is_seen_and_distinguished_from_another(checkout: Path) -> None:
    seen = []
    for text in ("one", "two", "two"):
        checkout.write_text(text)
        code = provenance._code(checkout)
        assert code is not None
        assert code["dirty"]
        seen.append(code["diff"])
    assert seen[0] != seen[1] == seen[2]


def test_a_new_file_makes_a_checkout_dirty(checkout: Path) -> None:
    (checkout.parent / "new.py").touch()
    code = provenance._code(checkout)
    assert code is not None
    assert code["dirty"]


def test_the_variables_of_a_hook_do_not_mislead(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(checkout.parent / "elsewhere"))
    assert provenance._code(checkout) is not None


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert provenance._code(tmp_path / "__init__.py") is None


def test_a_copy_installed_inside_a_foreign_checkout_has_no_commit(checkout: Path) -> None:
    installed = checkout.parent / "site-packages" / "__init__.py"
    installed.parent.mkdir()
    shutil.copy(checkout, installed)
    assert provenance._code(installed) is None


def test_a_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    assert provenance._code(tmp_path / "__init__.py") is None


def test_without_git_the_record_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert a_record()["code"] is None


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert a_record()["versions"]["no-such-package"] is None


def test_a_machine_without_the_information_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Any:
        raise OSError("not on this system")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(os, "sysconf", refuse)
    monkeypatch.setattr(platform, "processor", lambda: "")
    machine = provenance._machine()
    assert machine["cpu"] is None
    assert machine["memory_bytes"] is None
