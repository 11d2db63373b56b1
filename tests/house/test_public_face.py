"""Public names: `import coca` is fast, and its names equal the documented names."""

import re
import subprocess
import sys
from pathlib import Path

import coca

ROOT = Path(__file__).parent.parent.parent


def run(program: str) -> str:
    """Return the output of a new interpreter, without the type checks of the tests."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "pymilvus", "pydantic", "numpy", "PIL", "tokenizers"}
    loaded = run("import coca, sys; print(*sys.modules)").split()
    assert heavy & set(loaded) == set()


def test_every_public_name_is_listed_and_loads() -> None:
    assert set(coca.__all__) <= set(dir(coca))
    for name in coca.__all__:
        assert getattr(coca, name) is not None


def test_python_suggests_a_public_name_for_a_similar_one() -> None:
    program = "import coca; coca.open_stor"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("has no attribute 'open_stor'. Did you mean: 'open_store'?\n")


def test_the_public_names_equal_the_documented_names() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(r"<!-- public -->(.*?)<!-- /public -->", text, re.DOTALL)
    assert marked, "no page lists the public names between <!-- public --> and <!-- /public -->"
    documented = re.findall(r"\bcoca\.(\w+)", "\n".join(marked))
    assert sorted(documented) == sorted(coca.__all__)
