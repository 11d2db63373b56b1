"""Runs of a folder, compared with what their files contain."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.workflows.training.runs import (
    MAX_POINTS,
    best_of,
    differences,
    find_runs,
    scores_of,
    write_page,
)


def write_run(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    recipe = {"run": str(folder), "seed": 0, "train": {"steps": 10, "optimizer": {"lr": 0.1}}}
    (folder / "recipe.json").write_text(json.dumps(recipe | settings))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"step": 4, "loss": 3.0},
        {"step": 8, "loss": None, "val/loss": 2.5},
    ]
    first = write_run(tmp_path / "a", rows)
    (first / "best").mkdir()
    best = {"score": "val/loss", "value": 2.5, "step": 8}
    (first / "best" / "training.json").write_text(json.dumps(best))
    samples = first / "samples" / "step_00000008"
    samples.mkdir(parents=True)
    (samples / "0.webp").write_bytes(b"webp")
    line = {"key": "k", "image": "0.webp", "caption": "<b>a cat</b>", "references": ["one cat"]}
    (samples / "captions.jsonl").write_text(json.dumps(line) + "\n")
    write_run(tmp_path / "deep" / "b", [], seed=7, train={"steps": 20})
    return tmp_path


def test_runs_are_read_from_their_files(root: Path) -> None:
    first, second = find_runs(root)
    assert (first.name, first.step, first.steps) == ("a", 8, 10)
    assert (second.name, second.step, second.steps) == ("deep/b", 0, 20)
    assert first.metrics == {"loss": 3.0, "val/loss": 2.5}
    assert scores_of(first) == {"val/loss": 2.5}
    assert first.curves == {"loss": [(4, 3.0)], "val/loss": [(8, 2.5)]}
    assert first.best == best_of(root / "a") is not None
    assert second.best is None


def test_settings_that_differ_are_those_of_any_pair_of_runs(root: Path) -> None:
    assert differences(find_runs(root)) == {
        "a": {"seed": 0, "train.steps": 10, "train.optimizer.lr": 0.1},
        "deep/b": {"seed": 7, "train.steps": 20},
    }


def test_a_single_run_has_its_own_name_and_no_differences(root: Path) -> None:
    (run,) = find_runs(root / "a")
    assert run.name == "a"
    assert differences([run]) == {"a": {}}


def test_a_long_curve_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    write_run(tmp_path / "long", [{"step": n, "loss": float(n)} for n in range(1, 2501)])
    (run,) = find_runs(tmp_path)
    curve = run.curves["loss"]
    assert len(curve) <= MAX_POINTS + 1
    assert (curve[0], curve[-1]) == ((1, 1.0), (2500, 2500.0))
    assert run.metrics["loss"] == 2500.0


def test_a_folder_without_runs_is_reported(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="contains no run"):
            find_runs(folder)


def test_the_page_is_strict_and_loads_nothing(root: Path, tmp_path: Path) -> None:
    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found.append((tag, dict(attrs)))

    path = tmp_path / "runs.html"
    write_page(path, find_runs(root))
    text = path.read_text()
    parser = Tags()
    parser.feed(text)
    assert "default-src 'none'" in text
    assert not [tag for tag, _ in parser.found if tag in ("script", "link", "iframe", "b")]
    sources = [attributes.get("src") or "" for _, attributes in parser.found]
    assert all(source.startswith("data:image/webp;base64,") for source in sources if source)
    assert sum(tag == "polyline" for tag, _ in parser.found) == 2
    assert "&lt;b&gt;a cat&lt;/b&gt;" in text
    assert "seed=7" in text


def test_a_curve_falls_in_the_page_as_its_values_do(tmp_path: Path) -> None:
    values = [5.0, 2.0, 3.0]
    write_run(tmp_path / "run", [{"step": n, "loss": it} for n, it in enumerate(values)])
    write_page(tmp_path / "runs.html", find_runs(tmp_path))
    (points,) = re.findall(r'points="([^"]*)"', (tmp_path / "runs.html").read_text())
    heights = [float(point.split(",")[1]) for point in points.split()]
    scale = (heights[1] - heights[0]) / (values[0] - values[1])
    assert heights[2] == pytest.approx(heights[0] + scale * (values[0] - values[2]), abs=0.2)
