from pathlib import Path

import pytest
import yaml

from everyday_plugin import register_losses
from tiny_cli import Run, RunJson

RECIPES = Path(__file__).parents[3] / "recipes"


RUN = "run: runs/x\nmodel: coca_tiny\ntrain: {steps: 5}\ndata: {sources: [{kind: folder, path: p}]}"
TASK = "task: retrieval\ndata: {kind: folder, path: p}"


@pytest.fixture(autouse=True)
def recipes(cwd: Path) -> None:
    Path("run.yaml").write_text(RUN, encoding="utf-8")
    Path("task.yaml").write_text(TASK, encoding="utf-8")


def test_a_shown_recipe_is_a_recipe_with_every_default_written_out(
    run: Run, run_json: RunJson
) -> None:
    text = run("config", "show", "run.yaml", "train.steps=7").stdout
    tree = yaml.safe_load(text)
    assert tree["train"]["steps"] == 7
    assert tree["model"]["image"]["width"] == 192
    Path("again.yaml").write_text(text, encoding="utf-8")
    assert run_json("config", "show", "again.yaml") == tree


def test_a_task_is_distinguished_from_a_run(run_json: RunJson) -> None:
    assert run_json("config", "show", "task.yaml")["captions"] == "all"


def test_a_wrong_recipe_is_a_wrong_call(run: Run) -> None:
    assert (
        "did you mean 'steps'" in run("config", "show", "run.yaml", "train.stps=7", code=2).stderr
    )


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_shown(
    run_json: RunJson, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_losses(monkeypatch)
    tree = run_json("config", "show", str(recipe))
    assert tree.get("run") or tree.get("task") or tree["tasks"]
