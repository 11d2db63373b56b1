from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Run = Callable[..., Result]
RunJson = Callable[..., Any]


def test_a_preset_is_described_without_its_weights(run_json: RunJson) -> None:
    output = run_json("info", "coca_base")
    counts = output["parameters"]
    assert counts["total_without_poolers"] == pytest.approx(382.8e6, abs=0.05e6)
    parts = counts.keys() - {"total", "total_without_poolers"}
    assert sum(counts[part] for part in parts) == counts["total"]
    assert output["config"]["image"]["patch_size"] == 18


def test_a_folder_and_a_run_are_described_alike(
    run: Run, run_json: RunJson, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run_json("info", model)
    assert output["config"]["embed_dim"] == 24
    assert run_json("info", str(Path(model).parent)) == output
    monkeypatch.setenv("COCA_MODEL", model)
    assert run_json("info") == output
    assert f"{output['parameters']['total']:,}" in run("info", model).stdout


def test_an_unknown_model_is_reported_with_the_nearest_preset(run: Run) -> None:
    assert "did you mean 'coca_base'?" in run("info", "coca_bass", code=2).stderr


def test_a_folder_without_a_model_is_a_failure(run: Run, cwd: Path) -> None:
    assert "not a model folder" in run("info", str(cwd), code=1).stderr
    assert "not a model folder" in run("embed", "-t", "x", "-m", str(cwd), code=1).stderr
