"""Each extra that is installed can be imported; the others are named."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: [Requirement(text) for text in texts if not text.startswith(f"{PROJECT['name']}[")]
    for name, texts in PROJECT["optional-dependencies"].items()
    # For developers.
    if not re.match(r"(test|dev$|docs$|bench$|drawings$|encoders$)", name)
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, packages in EXTRAS.items() if packages])
def test_the_packages_of_an_extra_are_imported(name: str) -> None:
    modules = []
    for package in EXTRAS[name]:
        try:
            found = distribution(package.name)
        except PackageNotFoundError:
            pytest.skip(f"the extra {name} is not installed: {package.name} is missing")
        assert package.specifier.contains(found.version, prereleases=True), (package, found.version)
        title = found.metadata["Name"]
        tops = [top for top, names in packages_distributions().items() if title in names]
        modules += [top for top in tops if top.isidentifier() and not top.startswith("_")][:1]
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    command = [sys.executable, "-W", "ignore", "-c", program, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert modules
    assert done.returncode == 0, done.stderr
