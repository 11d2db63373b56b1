"""The public face: `import coca` is quick, and its names are the documented ones."""

import re
import subprocess
import sys
from pathlib import Path

import coca

ROOT = Path(__file__).parent.parent.parent


def run(program: str) -> str:
    """What a fresh interpreter prints, without the type checks that the tests switch on."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_waits_for_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "pymilvus", "pydantic", "numpy", "PIL", "tokenizers"}
    loaded = run("import coca, sys; print(*sys.modules)").split()
    assert heavy & set(loaded) == set()


def test_search_scores_and_the_ground_floor_run_without_torch() -> None:
    # import-linter sees only what is written; this sees what third parties load, too.
    program = (
        "import importlib, pkgutil, sys\n"
        "sys.modules['torch'] = None\n"
        "for room in ('core', 'metrics', 'search'):\n"
        "    package = importlib.import_module(f'coca.{room}')\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    run(program)


def test_every_public_name_is_listed_and_loads() -> None:
    assert set(coca.__all__) <= set(dir(coca))
    for name in coca.__all__:
        assert getattr(coca, name) is not None


def test_an_absent_name_is_an_attribute_error() -> None:
    assert not hasattr(coca, "no_such_name")


def test_the_public_names_are_the_documented_ones() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs" / "reference").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    marked = re.findall(r"<!-- public -->(.*?)<!-- /public -->", text, re.DOTALL)
    assert marked, "no page lists the public names between <!-- public --> and <!-- /public -->"
    documented = re.findall(r"\bcoca\.(\w+)", "\n".join(marked))
    assert sorted(documented) == sorted(coca.__all__)
