"""The package of docs/plugins.md, installed by pip next to `coca`, and used."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import coca

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("hatchling", reason="builds the package; installed by `make test`")
    home = tmp_path_factory.mktemp("package")
    files = dict(BLOCK.findall(PAGE))
    for name, text in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    assert sum(len(text.split("\n")) for name, text in files.items() if name.endswith(".py")) <= 35
    site = home / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    options = ["--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([*command, *options, str(home)], check=True)
    paths = [str(Path(coca.__file__).parents[1]), str(site)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_command_is_one_of_coca(environment: dict[str, str]) -> None:
    assert run(environment, "-m", "coca", "greet", "Anna") == "Hello Anna\n"
    assert "greet " in run(environment, "-m", "coca", "--help")


def test_it_is_listed_with_what_it_adds(environment: dict[str, str]) -> None:
    listed = {
        it["plugin"]: it for it in json.loads(run(environment, "-m", "coca", "plugins", "--json"))
    }
    assert listed["greetings"]["adds"] == "Greetings."
    assert listed["greetings"]["names"] == {"commands": ["greet"], "routes": ["greetings"]}


def test_its_routes_are_those_of_the_service(environment: dict[str, str]) -> None:
    program = "from coca.server.app import ROUTES; print(ROUTES.get('greetings').routes[0].path)"
    assert run(environment, "-c", program) == "/v1/greetings\n"
