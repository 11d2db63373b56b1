"""Benchmarks: the options and the JSON line that all of them share."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.files.table_file import TABLE_SUFFIXES, write_table

FOLDER = Path(__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(
    path for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text()
)
SCRIPT = """
import argparse
from options import run
from side_by_side import Unavailable, emit, in_turn

def contestant(arguments):
    if arguments.contestant == "absent":
        raise Unavailable("absent is not installed")
    import {module}
    emit({{"seconds": arguments.rows / 100, "hash": 1.0}})

def referee(arguments):
    names = arguments.only.split(",")
    shared = [f"--rows={{arguments.rows}}"]
    return in_turn({{n: [*shared, f"--contestant={{n}}"] for n in names}}, rounds=arguments.rounds)

parser = argparse.ArgumentParser()
parser.add_argument("--rows", type=int, default=1000)
parser.add_argument("--only", default="one,absent")
run(parser, referee=referee, contestant=contestant, quick={{"rows": 100}}, units={{"sec*": "s"}})
"""


def run_script(
    folder: Path, *options: str, module: str = "json"
) -> subprocess.CompletedProcess[str]:
    script = folder / "sample.py"
    script.write_text(SCRIPT.format(module=module), encoding="utf-8")
    environment = {"PYTHONPATH": str(FOLDER), "PATH": ""}
    command = [sys.executable, str(script), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def record(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_every_benchmark_declares_its_quick_mode_and_its_units(program: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(program.read_text())) if type(node) is ast.Call]
    runs = [call for call in calls if getattr(call.func, "id", "") == "run"]
    options = [
        call.args[0].value for call in calls if call.args and type(call.args[0]) is ast.Constant
    ]
    if program.stem == "run_all":
        assert {"--quick", "--json"} <= set(options)
    else:
        assert [{"quick", "units"} <= {word.arg for word in call.keywords} for call in runs] == [
            True
        ]


def test_the_quick_mode_changes_defaults_and_not_the_options_that_are_given(tmp_path: Path) -> None:
    rows = [
        record(run_script(tmp_path, "--json", "--rounds=1", *options))["options"]["rows"]
        for options in ([], ["--quick"], ["--quick", "--rows=7"])
    ]
    assert rows == [1000, 100, 7]


def test_the_json_line_has_the_median_the_spread_and_the_unit(tmp_path: Path) -> None:
    found = record(run_script(tmp_path, "--json", "--quick", "--rounds=2"))
    assert found["name"] == "sample"
    assert found["figures"] == {
        "one: seconds": {"median": 1.0, "low": 1.0, "high": 1.0, "unit": "s"}
    }
    assert found["skipped"] == {"absent": "absent is not installed"}
    assert found["unavailable"] == ""


def test_a_benchmark_without_any_peer_gives_the_reason_and_a_status_of_its_own(
    tmp_path: Path,
) -> None:
    done = run_script(tmp_path, "--json", "--only=absent")
    assert (done.returncode, record(done)["unavailable"]) == (69, "absent is not installed")


def test_a_missing_module_that_is_no_peer_is_a_failure(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--json", "--only=one", module="no_such_module")
    assert done.returncode == 1
    assert "no_such_module" in done.stderr


TABLE = """
import json, pathlib, sys, run_all
run_all.FOLDER = pathlib.Path(sys.argv[1])
record = run_all.measure(sys.argv[2], quick=True, limit_s=1e5)
assert record["seconds"] > 0 and record["processor_s"] > 0
print(json.dumps(run_all.rows_of(record)))
"""


@pytest.mark.parametrize(
    ("module", "rows"),
    [
        ("json", [["wall time of the benchmark"], ["processor time of the benchmark"]]),
        ("no_such_module", [["failed: exit status 1"]]),
    ],
)
def test_the_table_has_the_times_of_a_benchmark_or_the_reason_of_its_failure(
    tmp_path: Path, module: str, rows: list[list[str]]
) -> None:
    script = tmp_path / "sample.py"
    script.write_text(SCRIPT.format(module=module), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", TABLE, str(tmp_path), "sample"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(FOLDER), "PATH": ""},
        check=True,
    )
    found = json.loads(done.stdout)
    assert [[row[1]] for row in found[: len(rows)]] == rows
    assert len({len(row) for row in found}) == 1


def test_no_file_of_the_project_names_the_folder_of_the_developers_data() -> None:
    root = FOLDER.parent
    files = [
        path
        for folder in ("benchmarks", "docs", "examples", "recipes", "scripts", "src")
        for path in (root / folder).rglob("*")
        if path.suffix in (".csv", ".md", ".py", ".yaml")
    ]
    named = [path for path in [root / "README.md", root / "Makefile", *files] if path.is_file()]
    found = [path for path in named if "shared/data" in path.read_text(encoding="utf-8")]
    assert not found


LOCATE = """
import pathlib, sys, sample_data
sample_data.FOLDER = pathlib.Path(sys.argv[1])
print(sample_data.located(sys.argv[2]))
"""


def locate(pattern: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOCATE, str(folder), pattern],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(FOLDER), "PATH": ""},
        check=False,
    )


def test_the_default_data_are_written_once_from_installed_drawings(tmp_path: Path) -> None:
    first = locate("drawings:train", tmp_path)
    shards = sorted((tmp_path / "drawings-train").glob("*.tar"))
    written = [path.stat().st_mtime_ns for path in shards]
    assert shards
    assert first.stdout.strip() == str(tmp_path / "drawings-train" / "*.tar")
    assert locate("drawings:train", tmp_path).stdout == first.stdout
    assert [path.stat().st_mtime_ns for path in shards] == written


def test_a_pattern_without_files_is_unavailable_with_the_remedy(tmp_path: Path) -> None:
    done = locate(str(tmp_path / "*.tar"), tmp_path)
    assert "Unavailable: no file matches" in done.stderr
    assert "leave the option out" in done.stderr


PEERS = """
import pathlib, runpy, sys, side_by_side
_, folder, *sys.argv = sys.argv
side_by_side.QUICK_RESULTS = pathlib.Path(folder)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])},
        check=True,
    )


def test_stores_are_compared_on_vectors_of_the_users_own_file(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    np.save(tmp_path / "own.npy", vectors)
    options = [f"--vectors={tmp_path / 'own.npy'}", "--only=scan,numpy", "--quick", "--json"]
    done = run_python(PEERS, tmp_path, FOLDER / "search_peers.py", *options)
    figures = record(done)["figures"]
    recalls = {value["median"] for name, value in figures.items() if ": recall" in name}
    assert recalls == {1.0}
    (report,) = tmp_path.glob("search-peers_*.md")
    text = report.read_text(encoding="utf-8")
    assert "450 vectors of 16 numbers, of `own.npy`; 50 queries" in text
    assert "| `VectorScan`, exact |" in text


READ = """
import pathlib, sys, numpy, search_peers
first, *others = (search_peers.read_vectors(pathlib.Path(path)) for path in sys.argv[1:])
assert first.shape == (3, 4) and numpy.allclose(numpy.linalg.norm(first, axis=1), 1)
assert all(numpy.array_equal(first, other) for other in others)
"""


def test_the_vectors_of_every_form_of_coca_embed_are_read(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "own.npy", vectors)
    for suffix in TABLE_SUFFIXES:
        write_table(tmp_path / f"own{suffix}", {"path": ["a", "b", "c"], "vector": vectors})
    run_python(READ, *sorted(tmp_path.iterdir()))


def test_typed_queries_are_measured_on_a_collection_that_is_written_for_it(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red car\na dog in the snow\n", encoding="utf-8")
    options = ["--records=64", f"--captions={tmp_path / 'captions.txt'}", "--only=copy", "--json"]
    done = run_python(PEERS, tmp_path, FOLDER / "typed_queries.py", "--quick", *options)
    figures = record(done)["figures"]
    assert {"copy: typed cpu", "copy: filter cpu", "build: read cpu"} <= set(figures)
    (report,) = tmp_path.glob("typed-queries_*.md")
    assert "lines of `captions.txt`" in report.read_text(encoding="utf-8")
