from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from coca.release import release_nano

Run = Callable[..., Result]


def test_runs_are_shipped_with_the_tasks_of_a_file(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def release_model(
        runs: list[Path], tasks: Any, into: Path, **settings: Any
    ) -> release_nano.Release:
        asked.update(settings, runs=runs, tasks=tasks, into=into)
        settings["log"]("writing")
        return release_nano.Release(into, 7_300_000, 0.0004)

    monkeypatch.setattr(release_nano, "release_model", release_model)
    Path("suite.yaml").write_text(
        "tasks:\n  - {task: retrieval, data: {kind: folder, path: photos}}\n", encoding="utf-8"
    )
    told = run("release", "runs/a", "runs/b", "--tasks", "suite.yaml", "--data", "sets")
    assert asked["runs"] == [Path("runs/a"), Path("runs/b")]
    assert [task.task for task in asked["tasks"]] == ["retrieval"]
    assert (asked["into"], asked["data"]) == (Path("src/coca/weights/nano"), Path("sets"))
    assert told.stderr == "writing\n"
    assert "holds 7.3 MB; half precision moves embeddings by at most 4.0e-04" in told.stdout


def test_a_file_without_tasks_is_a_wrong_call(run: Run, place: Path) -> None:
    Path("suite.yaml").write_text("task: retrieval\n", encoding="utf-8")
    assert "tasks" in run("release", "runs/a", "--tasks", "suite.yaml", code=2).stderr
