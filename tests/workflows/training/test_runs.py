"""Runs of a folder, compared with what their files contain."""

import json
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import ConfigError
from coca.workflows.training.runs import best_of, differences, find_runs


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
    write_run(tmp_path / "deep" / "b", [], seed=7, train={"steps": 20})
    return tmp_path


def test_runs_are_read_from_their_files(root: Path) -> None:
    first, second = find_runs(root)
    assert (first.name, first.step, first.settings["train.steps"]) == ("a", 8, 10)
    assert (second.name, second.step, second.settings["train.steps"]) == ("deep/b", 0, 20)
    assert first.metrics == {"loss": 3.0, "val/loss": 2.5}
    assert first.best == best_of(root / "a") is not None
    assert second.best is None


def test_settings_that_differ_are_those_of_any_pair_of_runs(root: Path) -> None:
    assert differences(find_runs(root)) == [
        {"seed": 0, "train.steps": 10, "train.optimizer.lr": 0.1},
        {"seed": 7, "train.steps": 20},
    ]


def test_a_single_run_has_its_own_name_and_no_differences(root: Path) -> None:
    (run,) = find_runs(root / "a")
    assert run.name == "a"
    assert differences([run]) == [{}]


def test_a_folder_without_runs_is_reported(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="contains no run"):
            find_runs(folder)
