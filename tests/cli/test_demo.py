from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from coca.workflows import demo as workflow

Run = Callable[..., Result]
RunJson = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for minutes of work; what it was asked for, and whether it will be stopped."""
    asked: dict[str, Any] = {"interrupted": False}

    def demo(folder: Path, **settings: Any) -> workflow.DemoResult:
        asked.update(settings, folder=folder)
        settings["tell"]("packing")
        return workflow.DemoResult(
            folder=folder,
            model=folder / "model",
            index=folder / "pictures.db",
            report=folder / "report.html",
            example=folder / "car.png",
            interrupted=asked["interrupted"],
        )

    monkeypatch.setattr(workflow, "demo", demo)
    return asked


def test_the_demo_ends_with_commands_to_try(run: Run, asked: dict[str, Any]) -> None:
    told = run("demo", "train.steps=5")
    assert asked["overrides"] == ["train.steps=5"]
    assert told.stderr == "packing\n"
    assert "runs/demo/report.html" in told.stdout
    assert "\n  coca search 'red car'\n" in told.stdout
    assert "\n  coca caption runs/demo/car.png\n" in told.stdout


def test_a_demo_elsewhere_names_its_model_and_collection(run: Run, asked: dict[str, Any]) -> None:
    told = run("demo", "--folder", "other", "--quiet")
    assert told.stderr == ""
    assert "coca search 'red car' --uri other/pictures.db\n" in told.stdout
    assert "--model other/model\n" in told.stdout


def test_a_stopped_demo_says_so(run: Run, run_json: RunJson, asked: dict[str, Any]) -> None:
    asked["interrupted"] = True
    assert "stopped, and saved in runs/demo" in run("demo", code=130).stdout
    assert run_json("demo", code=130)["interrupted"]
