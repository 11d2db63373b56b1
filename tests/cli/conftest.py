import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from coca.cli.app import app
from tiny_cli import Run
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="session", autouse=True)
def _one_command_tree() -> Iterator[None]:
    """Build the commands once: it takes as long as half of a typical command of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command; nothing of the machine shows through."""
    monkeypatch.chdir(tmp_path)
    for name in ("COCA_MODEL", "COCA_URI", "COCA_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["coca"])
    return tmp_path


@pytest.fixture
def images(cwd: Path) -> list[str]:
    """Three good images, named as one would at a prompt."""
    (cwd / "photos").mkdir()
    paths = [f"photos/{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(image_bytes(number))
    return paths


@pytest.fixture
def run(cwd: Path) -> Run:
    """Runs a command in this process; it must end with the given code."""

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Runs a command with --json and gives what it printed."""

    def invoke(*arguments: str, code: int = 0) -> Any:
        return json.loads(run(*arguments, "--json", code=code).stdout)

    return invoke
