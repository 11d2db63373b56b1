import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

import coca
from coca.workflows import pretrain as workflow

Run = Callable[..., Result]
RunJson = Callable[..., Any]

RECIPE = {
    "run": "runs/tiny",
    "model": {
        "image": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "heads": 2},
        "text": {"vocab_size": 300, "context_length": 24, "width": 32, "heads": 2}
        | {"unimodal_layers": 1, "multimodal_layers": 1},
        "pooler": {"captioning_queries": 2, "heads": 2},
        "embed_dim": 32,
    },
    "data": {"sources": [{"kind": "folder", "path": "photos"}], "loader": {"batch_size": 2}},
    "train": {"steps": 3, "log_every": 1, "save_every": 2},
}


@pytest.fixture
def recipe(pictures: list[str]) -> str:
    for path in pictures:
        Path(path).with_suffix(".txt").write_text(f"a picture called {path}", encoding="utf-8")
    Path("tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return "tiny.yaml"


def test_a_run_is_trained_told_and_gone_on_with(run: Run, run_json: RunJson, recipe: str) -> None:
    told = run_json("pretrain", recipe)
    assert told.keys() == {"run", "model", "step", "interrupted", "figures"}
    assert (told["run"], told["step"], told["interrupted"]) == ("runs/tiny", 3, False)
    assert told["figures"]["loss"] > 0
    assert coca.load(told["model"]).embed_dim == 32
    said = run("pretrain", recipe).stdout
    assert "3 steps are done with loss" in said
    assert "model: runs/tiny/model" in said


def test_later_recipes_and_changes_win(run_json: RunJson, recipe: str) -> None:
    Path("more.yaml").write_text("train: {steps: 9}\nrun: runs/more", encoding="utf-8")
    told = run_json("pretrain", recipe, "more.yaml", "train.steps=1")
    assert (told["run"], told["step"]) == ("runs/more", 1)


def test_every_fault_of_a_recipe_is_told_at_once(run: Run, recipe: str) -> None:
    told = run("pretrain", recipe, "train.step=1", "seed=often", code=2).stderr.splitlines()
    assert told[0] == "error: 2 things are wrong"
    assert any("did you mean 'steps'" in line for line in told)
    assert any("seed = 'often'" in line for line in told)


def test_a_run_without_a_recipe_is_a_wrong_call(run: Run, place: Path) -> None:
    assert "no recipe is given" in run("pretrain", "train.steps=1", code=2).stderr
    assert "none.yaml cannot be read" in run("pretrain", "none.yaml", code=2).stderr


def test_a_stopped_run_says_how_to_go_on(
    run: Run, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = workflow.PretrainResult(Path("runs/x"), Path("runs/x/model"), 2, True, {})
    monkeypatch.setattr(workflow, "pretrain", lambda config, **_: stopped)
    said = run("pretrain", recipe, code=130).stdout
    assert "stopped after step 2 of 3" in said
    assert "the same command goes on" in said


def test_ctrl_c_saves_and_the_same_command_goes_on(
    run_json: RunJson, recipe: str, place: Path
) -> None:
    command = ["pretrain", recipe, "train.steps=100000", "train.save_every=50000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coca.cli.app", *command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
    )
    metrics = place / "runs/tiny/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    told = json.loads(out)
    assert told["interrupted"]
    assert 0 < told["step"] < 100000
    assert run_json(*command[:2], f"train.steps={told['step'] + 1}")["step"] == told["step"] + 1
