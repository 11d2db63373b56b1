"""Benchmarks: the options and the JSON line that all of them share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "benchmarks"
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


def run_python(code: str, *arguments: object) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])},
        check=True,
    ).stdout


def record(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout.splitlines()[-1])


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


def test_a_missing_module_that_is_no_peer_is_a_failure(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--json", "--only=one", module="no_such_module")
    assert done.returncode == 1
    assert "no_such_module" in done.stderr


PEERS = """
import pathlib, runpy, sys, side_by_side
_, folder, *sys.argv = sys.argv
side_by_side.QUICK_RESULTS = pathlib.Path(folder)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_stores_are_compared_on_vectors_of_the_users_own_file(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    np.save(tmp_path / "own.npy", vectors)
    options = [f"--vectors={tmp_path / 'own.npy'}", "--only=sqlite,numpy", "--quick", "--json"]
    output = run_python(PEERS, tmp_path, FOLDER / "search_peers.py", *options)
    figures = json.loads(output.splitlines()[-1])["figures"]
    recalls = {value["median"] for name, value in figures.items() if ": recall" in name}
    assert recalls == {1.0}
    (report,) = tmp_path.glob("search-peers_*.md")
    text = report.read_text(encoding="utf-8")
    assert "450 vectors of 16 numbers, of `own.npy`; 50 queries" in text
    assert "| `SqliteCollection`, exact |" in text
