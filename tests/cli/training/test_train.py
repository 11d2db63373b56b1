import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import coca
from coca.model.checkpoint import load_newest
from tiny_cli import Run, RunJson
from tiny_run import read_metrics

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
def recipe(images: list[str]) -> str:
    for path in images:
        Path(path).with_suffix(".txt").write_text(f"an image called {path}", encoding="utf-8")
    Path("tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return "tiny.yaml"


def test_a_run_is_trained_reported_and_resumed(run: Run, run_json: RunJson, recipe: str) -> None:
    output = run_json("pretrain", recipe)
    assert output.keys() == {"run", "model", "step", "interrupted", "metrics"}
    assert (output["run"], output["step"], output["interrupted"]) == ("runs/tiny", 3, False)
    assert output["metrics"]["loss"] > 0
    assert coca.load(output["model"]).embed_dim == 32
    printed = run("pretrain", recipe).stdout
    assert "3 steps are done with loss" in printed
    assert "model: runs/tiny/model" in printed


def test_all_errors_of_a_recipe_are_reported_at_once(run: Run, recipe: str) -> None:
    output = run("pretrain", recipe, "train.step=1", "seed=often", code=2).stderr.splitlines()
    assert output[0] == "error: 2 problems"
    assert any("did you mean 'steps'" in line for line in output)
    assert any("seed must be a whole number, got 'often'" in line for line in output)


def test_a_run_without_a_recipe_is_a_wrong_call(run: Run, cwd: Path) -> None:
    assert "no recipe is given" in run("pretrain", "train.steps=1", code=2).stderr
    assert "none.yaml cannot be read" in run("pretrain", "none.yaml", code=2).stderr


LONG = ("train.steps=20000", "train.save_every=50000")


def wait_for_row(run: Path, process: subprocess.Popen[str], *, beyond: int = 0) -> int:
    """The step of the newest row, once there is one beyond a step."""
    while process.poll() is None:
        if (rows := read_metrics(run)) and rows[-1]["step"] > beyond:
            return int(rows[-1]["step"])
        time.sleep(0.05)
    raise AssertionError(f"the run was over too early: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_saves_and_the_same_command_goes_on(
    run_json: RunJson, recipe: str, cwd: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coca", "pretrain", recipe, *LONG, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    wait_for_row(cwd / "runs/tiny", process)
    process.send_signal(number)
    out, errors = process.communicate()
    assert (process.returncode, errors) == (code, "")
    output = json.loads(out)
    assert output["interrupted"]
    assert 0 < output["step"] < 20000
    longer = f"train.steps={output['step'] + 1}"
    assert run_json("pretrain", recipe, LONG[1], longer)["step"] == output["step"] + 1


@contextmanager
def torchrun(cwd: Path, *arguments: str, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Two processes that train together; they do not outlive the block."""
    launcher = ("--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts))
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "coca", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    try:
        yield process
    finally:
        # It ends its own children, which it could not if it were killed.
        process.terminate()
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in listed}
    return [pid for pid, command in commands.items() if b"pretrain" in command]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes by /proc")
def test_torchrun_starts_killed_ranks_again_and_sigterm_saves(
    run_json: RunJson, recipe: str, cwd: Path
) -> None:
    folder = cwd / "runs/tiny"
    pace = (LONG[0], "train.save_every=10")
    with torchrun(cwd, "pretrain", recipe, *pace, restarts=1) as process:
        wait_for_row(folder, process, beyond=15)
        os.kill(workers_of(process)[1], signal.SIGKILL)
        while len(json.loads((folder / "record.json").read_text())["starts"]) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        # Rows after the checkpoint go, which are all if there was none yet.
        steps = [row["step"] for row in read_metrics(folder)]
        wait_for_row(folder, process, beyond=max(steps, default=0) + 5)
        process.terminate()
        process.communicate()
    # Each step once, up to the one that the last checkpoint holds.
    rows = [int(row["step"]) for row in read_metrics(folder)]
    assert rows == list(range(1, len(rows) + 1))
    newest = load_newest(folder)
    assert newest is not None
    assert newest.step == len(rows)
    longer = f"train.steps={newest.step + 1}"
    assert run_json("pretrain", recipe, pace[1], longer)["step"] == newest.step + 1


def test_a_model_is_fine_tuned_and_its_scores_are_reported(
    run: Run, run_json: RunJson, recipe: str
) -> None:
    run("pretrain", recipe)
    settings = {
        "run": "runs/names",
        "model": "runs/tiny",
        "head": {"heads": 2},
        "encoder_lr": 0,
        "data": {
            "sources": [{"kind": "manifest", "path": "table.csv", "text": "labels"}],
            "loader": {"batch_size": 2},
        },
        "loss": {"contrastive_weight": 0, "captioning_weight": 0, "classification_weight": 1},
        "train": {"steps": 2},
        "evaluate": [{"task": "recognition", "data": {"kind": "manifest", "path": "table.csv"}}],
    }
    Path("names.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    files = sorted(Path("photos").glob("*.png"))
    rows = [f"{path},{'ab'[number % 2]}" for number, path in enumerate(files)]
    Path("table.csv").write_text("\n".join(["image,label", *rows]), encoding="utf-8")
    output = run_json("finetune", "names.yaml")
    assert output.keys() == {"run", "model", "step", "interrupted", "metrics", "scores"}
    assert output["scores"][0]["task"] == "recognition"
    assert coca.load(output["model"]).classes == ("a", "b")
    printed = run("finetune", "names.yaml").stdout
    assert f"recognition on {len(files)} samples of table.csv" in printed
    assert "mean per class" in printed
    named = run_json("classify", str(files[0]), "-m", "runs/names")
    assert {one["label"] for one in named[0]["predictions"]} == {"a", "b"}
    shown = run("config", "show", "names.yaml").stdout
    assert "encoder_lr: 0" in shown
