"""Public names: `import coca` is fast, and its names equal the documented names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("create_model_and_transforms", "use coca.load"),
        ("Collection", "use coca.open_store"),
        ("index_images", "use coca.index"),
        ("open_stor", "did you mean coca.open_store?"),
        ("no_such_name", "has no attribute"),
    ],
)
def test_a_wrong_public_name_is_answered_with_the_right_one(name: str, right: str) -> None:
    with pytest.raises(AttributeError, match=right):
        getattr(coca, name)


def test_a_package_that_is_not_imported_is_answered_with_its_import() -> None:
    program = (
        "import coca\ntry:\n    coca.runtime\nexcept AttributeError as error:\n    print(error)\n"
    )
    assert "before `import coca.runtime`" in run(program)


def test_the_public_names_equal_the_documented_names() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs" / "reference").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    marked = re.findall(r"<!-- public -->(.*?)<!-- /public -->", text, re.DOTALL)
    assert marked, "no page lists the public names between <!-- public --> and <!-- /public -->"
    documented = re.findall(r"\bcoca\.(\w+)", "\n".join(marked))
    assert sorted(documented) == sorted(coca.__all__)
