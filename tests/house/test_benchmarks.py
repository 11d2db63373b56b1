"""Benchmarks: a comparison of stores with its options, its JSON line and its report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PEERS = """
import pathlib, runpy, sys, side_by_side
_, folder, *sys.argv = sys.argv
side_by_side.QUICK_RESULTS = pathlib.Path(folder)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_stores_are_compared_on_vectors_of_the_users_own_file(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    np.save(tmp_path / "own.npy", vectors)
    options = [f"--vectors={tmp_path / 'own.npy'}", "--only=sqlite,numpy", "--quick", "--json"]
    output = subprocess.run(
        [sys.executable, "-c", PEERS, str(tmp_path), str(FOLDER / "search_peers.py"), *options],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])},
        check=True,
    ).stdout
    figures = json.loads(output.splitlines()[-1])["figures"]
    recalls = {value["median"] for name, value in figures.items() if ": recall" in name}
    assert recalls == {1.0}
    (report,) = tmp_path.glob("search-peers_*.md")
    text = report.read_text(encoding="utf-8")
    assert "450 vectors of 16 numbers, of `own.npy`; 50 queries" in text
    assert "| `SqliteCollection`, exact |" in text
