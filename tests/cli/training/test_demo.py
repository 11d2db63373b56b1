from pathlib import Path
from typing import Any

import pytest

from coca.demo import run as workflow
from tiny_cli import Run, RunJson


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces minutes of work; records the request, and is stopped if asked to."""
    asked: dict[str, Any] = {"interrupted": False}

    def result(folder: Path, model: str) -> workflow.DemoResult:
        return workflow.DemoResult(
            folder=folder,
            model=model,
            index=folder / "pictures.db",
            report=folder / "report.html",
            example=folder / "car.png",
            interrupted=asked["interrupted"],
        )

    def demo(folder: Path, **settings: Any) -> workflow.DemoResult:
        asked.update(settings, folder=folder)
        settings["log"]("packing")
        return result(folder, str(settings["model"]))

    def demo_from_scratch(folder: Path, **settings: Any) -> workflow.DemoResult:
        asked.update(settings, folder=folder)
        return result(folder, str(folder / "model"))

    monkeypatch.setattr(workflow, "demo", demo)
    monkeypatch.setattr(workflow, "demo_from_scratch", demo_from_scratch)
    return asked


def test_the_demo_shows_the_shipped_model_and_ends_with_commands_to_try(
    run: Run, asked: dict[str, Any]
) -> None:
    output = run("demo")
    assert (asked["model"], asked["folder"]) == ("everyday", Path("runs/demo"))
    assert output.stderr == "packing\n"
    assert "runs/demo/report.html" in output.stdout
    # Commands take the shipped model and this collection by default.
    assert "\n  coca search 'red car'\n" in output.stdout
    assert "\n  coca caption runs/demo/car.png\n" in output.stdout
    assert "\n  coca serve --open -c pictures -c drawings\n" in output.stdout


def test_another_model_and_folder_are_named_in_the_commands(
    run: Run, asked: dict[str, Any]
) -> None:
    output = run("demo", "--folder", "other", "--model", "mine", "--quiet")
    assert output.stderr == ""
    assert "coca search 'red car' --uri other/pictures.db\n" in output.stdout
    assert "coca caption other/car.png --model mine\n" in output.stdout


def test_from_scratch_trains_in_a_folder_of_its_own(run: Run, asked: dict[str, Any]) -> None:
    output = run("demo", "--from-scratch", "train.steps=5")
    assert asked["overrides"] == ["train.steps=5"]
    assert asked["folder"] == Path("runs/from-scratch")
    assert "coca search 'red car' --uri runs/from-scratch/pictures.db\n" in output.stdout
    assert "--model runs/from-scratch/model\n" in output.stdout


def test_changes_to_a_recipe_want_a_training(run: Run, asked: dict[str, Any]) -> None:
    output = run("demo", "train.steps=5", code=2)
    assert "train.steps=5 changes a recipe, which only --from-scratch trains" in output.stderr


def test_a_stopped_training_is_reported(run: Run, run_json: RunJson, asked: dict[str, Any]) -> None:
    asked["interrupted"] = True
    output = run("demo", "--from-scratch", code=130)
    assert "stopped, and saved in runs/from-scratch" in output.stdout
    assert run_json("demo", "--from-scratch", code=130)["interrupted"]


def test_ones_own_images_exclude_a_training(run: Run, asked: dict[str, Any]) -> None:
    output = run("demo", "--images", "photos", "--from-scratch", code=2)
    assert "--images photos and --from-scratch exclude each other" in output.stderr
