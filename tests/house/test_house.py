"""Project rules: size of kept files, module docstrings, import layers."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "coca"
WEIGHTS = PACKAGE / "weights"
PHOTOS = PACKAGE / "workflows" / "demo" / "photos.zip"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def kept_files() -> list[Path]:
    """Every file that is or would be committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("this is not a git checkout, so the list of kept files is unknown")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_a_module_opens_with_a_sentence() -> None:
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in MODULES}
    docstrings = {name: ast.get_docstring(ast.parse(text)) or "" for name, text in texts.items()}
    first = {name: text.partition("\n\n")[0] for name, text in docstrings.items()}
    sentence = re.compile(r"[A-Z`].{10,}[.?:]", re.DOTALL)
    assert {name: text for name, text in first.items() if not sentence.fullmatch(text)} == {}


def test_packages_import_from_lower_layers_only() -> None:
    # In a process of its own: it disables every logger that there is, also those of later tests.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert report.returncode == 0, report.stdout + report.stderr


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    # Built from parts, since this file is kept, too.
    folder = re.compile(rb"(?<![\w./~-])/(?:" + b"|".join([b"work", b"tmp", b"root"]) + rb")/")
    found = [name_of(path) for path in kept_files() if folder.search(path.read_bytes())]
    assert found == []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = grimp.build_graph("coca", cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imported).prepare()  # raises an error that names a cycle


def test_files_stay_small() -> None:
    # Images and data come from packages or releases; a clone stays small.
    sizes = {path: path.stat().st_size for path in kept_files()}
    weights = {path for path in sizes if WEIGHTS in path.parents}
    assert sum(sizes[path] for path in weights) <= 40_000_000
    assert sizes.pop(PHOTOS, 0) <= 7_000_000
    large = [name_of(path) for path in sizes.keys() - weights if sizes[path] > 512 * 1024]
    assert large == []
