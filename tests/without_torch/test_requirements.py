"""Requirements without torch are those of pyproject.toml, for the extras that are named."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from coca.requirements import EXTRAS, NEEDS_TORCH, requirements_without_torch

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {requirement.partition(">")[0].partition("<")[0] for requirement in requirements}


def test_the_core_dependencies_but_those_of_torch_are_listed() -> None:
    core = names(PROJECT["dependencies"])
    assert core >= NEEDS_TORCH
    assert names(requirements_without_torch()) == core - NEEDS_TORCH | {"onnxruntime"}


def test_an_extra_adds_its_packages_and_those_that_it_includes() -> None:
    core = names(requirements_without_torch())
    added = names(requirements_without_torch(["serve"])) - core
    extras = PROJECT["optional-dependencies"]
    own = {one for one in extras["serve"] if not one.startswith("coca-captioners")}
    assert added == names([*own, *extras["search"]]) - core
    everything = requirements_without_torch(EXTRAS)
    assert len(everything) == len(set(everything)) > len(added)


def listed(*extras: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coca.requirements", *extras]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_prints_one_requirement_a_line() -> None:
    assert listed("search").stdout.splitlines() == requirements_without_torch(["search"])


@pytest.mark.parametrize("extra", ["train", "no-such-extra"])
def test_an_extra_that_needs_torch_is_an_error(extra: str) -> None:
    done = listed(extra)
    assert done.returncode == 2
    assert f"no extra {extra!r} without torch; there are heif, hub, mcp" in done.stderr
