"""Versions: of the changelog, of `__version__`, and of what is built from a commit."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import coca

ROOT = Path(__file__).parent.parent.parent
RECIPES = [f"recipes/{it}.yaml" for it in ("evaluate/coco", "finetune/nlvr2", "pretrain/emoji")]
FILES = [
    *("pyproject.toml", ".gitattributes", "README.md", "LICENSE", "NOTICE"),
    *("LICENSES/CC-BY-2.0.txt", "LICENSES/LicenseRef-coca-weights.txt"),
    *("scripts/build_version.py", "src/coca/__init__.py", *RECIPES, "recipes/data/drawings.py"),
]
"""Files that a build reads."""
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_is_the_newest_release_or_a_development_version_after_it() -> None:
    version = Version(coca.__version__)
    releases = re.findall(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.M)
    newest = Version(releases[0]) if releases else Version("0")
    unreleased = CHANGELOG.split("\n## ")[1]
    assert unreleased.startswith("[Unreleased]")
    if re.search(r"^- ", unreleased, re.MULTILINE):
        # pip replaces an installed release by a wheel of a later version only.
        assert version.is_devrelease
        assert version > newest
    else:
        assert version == newest or (version.is_devrelease and version > newest)


def test_the_changelog_has_no_version_that_was_never_released() -> None:
    """0.5.0 is the first release, as docs/upgrade.md states."""
    headings = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert all(Version(name) >= Version("0.5.0") for name in headings if name != "Unreleased")
    if headings == ["Unreleased"]:
        # Nobody had what a first release removes or fixes.
        assert re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE) == ["Added"]


def required(extra: str, project: dict[str, Any]) -> Iterator[Requirement]:
    """Yield what an extra needs, also through other extras."""
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            for inner in requirement.extras:
                yield from required(inner, project)
        elif requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def test_the_locked_environment_of_the_tests_has_each_package_within_its_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "tests" / "locked.txt").read_text(encoding="utf-8").splitlines()[1:]
    locked = {
        canonicalize_name(name): version for name, version in (it.split("==") for it in lines)
    }
    needed = [*map(Requirement, project["dependencies"])]
    needed += [it for extra in ("demo", "drawings", "dev") for it in required(extra, project)]
    assert len(needed) > 50
    outside = [
        str(it)
        for it in needed
        if not it.specifier.contains(locked.get(canonicalize_name(it.name), "0"))
    ]
    assert outside == []


def git(folder: Path, *arguments: str, time_s: int = 0) -> None:
    author = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for role in ("AUTHOR", "COMMITTER"):
        author |= {f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@localhost"}
        author[f"GIT_{role}_DATE"] = f"@{time_s} +0000"
    command = ["git", "-C", str(folder), *arguments]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | author)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository of the files that decide about the version, with a commit of second 1000."""
    folder = tmp_path / "clone"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    source = folder / "src" / "coca" / "__init__.py"
    source.write_text(re.sub(r'"\d+\.\d+\.\d+[.\w]*"', '"1.2.0.dev0"', source.read_text()))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "first", time_s=1000)
    return folder


def build(folder: Path, kind: str = "wheel") -> Path:
    """Build one file from a folder, without a network."""
    pytest.importorskip("hatchling")
    out = folder / "dist"
    command = ["-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True)
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


def version_of(wheel: Path) -> str:
    """The version of a wheel's metadata, which its `coca.__version__` equals."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
        archive.extractall(wheel.parent / "installed")
    program = "import coca; print(coca.__version__)"
    path = os.environ | {"PYTHONPATH": str(wheel.parent / "installed")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=path)
    version = re.findall(r"^Version: (.*)$", text, re.MULTILINE)[0]
    assert done.stdout.strip() == version
    return str(version)


def test_a_wheel_of_a_later_commit_has_a_later_version_and_a_release_its_own(clone: Path) -> None:
    assert version_of(build(clone)) == "1.2.0.dev1000"
    source = clone / "src" / "coca" / "__init__.py"
    for text, version in (
        (source.read_text(), "1.2.0.dev2000"),
        (source.read_text().replace("1.2.0.dev0", "1.2.0"), "1.2.0"),
    ):
        shutil.rmtree(clone / "dist")
        source.write_text(text)
        git(clone, "commit", "--allow-empty", "--message", "next", time_s=2000)
        assert version_of(build(clone)) == version


def test_shallow_clones_archives_and_source_distributions_have_the_version_of_their_commit(
    clone: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", clone.as_uri(), str(tmp_path / "shallow"))
    git(clone, "archive", "--prefix", "archive/", "--output", str(tmp_path / "archive.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", tmp_path, filter="data")
    shutil.unpack_archive(build(clone, "sdist"), tmp_path, filter="data")
    for name in ("shallow", "archive", "coca_captioners-1.2.0.dev1000"):
        assert version_of(build(tmp_path / name)) == "1.2.0.dev1000"


def test_a_copy_without_its_history_has_the_version_of_the_source(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    # The commits of a folder above are another project's.
    git(clone.parent, "init", "--quiet")
    git(clone.parent, "commit", "--allow-empty", "--message", "other", time_s=5000)
    assert version_of(build(clone)) == "1.2.0.dev0"


def test_a_wheel_names_all_licences_and_has_their_texts(clone: Path) -> None:
    """Code, photos and weights have different terms (PEP 639)."""
    with zipfile.ZipFile(build(clone)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = archive.read(name).decode()
        files = {name.partition("/licenses/")[2] for name in archive.namelist()}
    (expression,) = re.findall(r"^License-Expression: (.*)$", metadata, re.MULTILINE)
    assert expression.split(" AND ") == ["Apache-2.0", "CC-BY-2.0", "LicenseRef-coca-weights"]
    assert {
        "LICENSE",
        "NOTICE",
        *(f"LICENSES/{it}.txt" for it in expression.split(" AND ")[1:]),
    } <= files


def test_a_wheel_contains_the_recipes_and_none_of_the_tools_of_a_clone(clone: Path) -> None:
    with zipfile.ZipFile(build(clone)) as archive:
        packed = [name for name in archive.namelist() if name.startswith("coca/recipes/")]
    assert sorted(packed) == [f"coca/{name}" for name in RECIPES]


def test_every_folder_of_recipes_is_in_the_wheel() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = config["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {*included} == {f"recipes/{path.parent.name}" for path in ROOT.glob("recipes/*/*.yaml")}
