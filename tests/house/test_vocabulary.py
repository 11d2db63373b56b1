"""Prose uses the field's terms, as far as a search can find the others; codespell finds words."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"
RECORDS: set[str] = set()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
# The old form of errors, "k is 2.5; right is a whole number", for "k must be a whole number".
PHRASES = re.compile(
    r"\b(laid (?:out|open)|gives? back|given back|second thoughts|brings (?:it|them)"
    r"|(?<![Tt]here )is no (?:file|folder|model|number|image|path|name)\b|right (?:is|are)\b"
    r"|a Milvus(?! (?:Lite|server|cluster|collection|instance|version|filter)))"
)


def test_pages_and_source_use_the_terms_of_the_field() -> None:
    files = [path for path in PAGES if path.name not in RECORDS] + list(PACKAGE.rglob("*.py"))
    lines = {
        f"{path.relative_to(ROOT)}:{number}": line
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    }
    assert {place: line for place, line in lines.items() if PHRASES.search(line)} == {}


def architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_file_walks_name_files_that_exist() -> None:
    text = architecture()
    named = re.findall(r"`([a-z_]+/[\w/]+\.py)`", text)
    assert len(named) > 30
    missing = [it for it in named if not (PACKAGE / it).exists() and not (ROOT / it).exists()]
    assert missing == []


def functions_of(path: str) -> set[str]:
    """Return the functions, classes and methods of a file; methods as `Class.method`."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    named = (ast.FunctionDef, ast.ClassDef)
    top = [node for node in tree.body if isinstance(node, named)]
    classes = [node for node in top if isinstance(node, ast.ClassDef)]
    methods = {
        f"{owner.name}.{it.name}" for owner in classes for it in owner.body if isinstance(it, named)
    }
    return methods | {node.name for node in top}


def test_the_life_of_a_query_names_functions_of_its_files() -> None:
    section = architecture().partition("## The life of a query\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (`.+?`) \| .+ \|$", section, re.MULTILINE)
    assert len(rows) > 15
    for files, names in rows:
        known = set[str]().union(*map(functions_of, re.findall(r"`(.+?)`", files)))
        assert set(re.findall(r"`(.+?)`", names)) <= known, files


@pytest.mark.slow
def test_a_search_enters_no_more_functions_than_its_limit(tmp_path: Path) -> None:
    # In a process of its own: what other tests have cached and imported would count less.
    script = [sys.executable, str(ROOT / "scripts" / "file_walks.py"), "--limits"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^search: \d+ functions", done.stdout, re.MULTILINE)
