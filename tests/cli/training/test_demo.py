from pathlib import Path
from typing import Any

import pytest

from coca.workflows.demo import run as workflow
from tiny_cli import Run, RunJson


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces a minute of work, and records the request."""
    asked: dict[str, Any] = {}

    def demo(folder: Path, **settings: Any) -> workflow.DemoResult:
        asked.update(settings, folder=folder)
        settings["log"]("indexing")
        uri, name = settings["uri"], "demo" if settings["uri"] else "pictures"
        uri = uri or str(folder / "pictures.db")
        return workflow.DemoResult(uri, name, folder / "report.html", folder / "car.png", 400)

    monkeypatch.setattr(workflow, "demo", demo)
    return asked


def test_the_demo_shows_the_shipped_model_and_ends_with_commands_to_try(
    run: Run, asked: dict[str, Any]
) -> None:
    output = run("demo")
    assert (asked["model"], asked["folder"]) == ("everyday", Path("runs/demo"))
    assert output.stderr == "indexing\n"
    assert "runs/demo/report.html" in output.stdout
    # Commands take the shipped model and this collection by default.
    assert "\n  coca search 'red car'\n" in output.stdout
    assert "\n  coca caption runs/demo/car.png\n" in output.stdout
    assert "\n  coca serve --open\n" in output.stdout


def test_a_uri_and_its_collection_are_in_the_commands(run: Run, asked: dict[str, Any]) -> None:
    output = run("demo", "--uri", "http://localhost:19530")
    assert "'red car' --uri http://localhost:19530 --collection demo\n" in output.stdout


def test_ones_own_images_have_a_folder_of_their_own(
    run_json: RunJson, asked: dict[str, Any]
) -> None:
    output = run_json("demo", "--images", "photos")
    assert asked["images"] == Path("photos")
    assert (output["uri"], output["images"]) == ("runs/my-images/pictures.db", 400)
