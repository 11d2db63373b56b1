import json
import sys
from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import CocaError, ConfigError
from coca.data.sources.folder import FolderConfig
from coca.data.sources.source import SourceConfig
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.workflows.evaluation.evaluate import evaluate, side_by_side
from tiny_data import image_bytes
from tiny_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def data(tmp_path: Path) -> SourceConfig:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(image_bytes(number))
        (folder / f"{number}.txt").write_text(f"image {number}", encoding="utf-8")
    return FolderConfig(path=str(folder))


def test_tasks_are_scored_in_their_order_and_kept_with_where_they_come_from(
    model: Path, data: SourceConfig, tmp_path: Path
) -> None:
    configs = [
        TaskConfig(task="retrieval", data=data),
        TaskConfig(task="retrieval", data=data, limit=2),
    ]
    out = tmp_path / "deep" / "scores"
    results = evaluate(model, configs, out=out)
    assert [result.samples for result in results] == [4, 2]
    assert not results[0].notes
    assert "only the first 2 samples are read" in results[1].notes[0]
    kept = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (kept["model"], kept["fingerprint"]) == (str(model), load_coca(model).fingerprint)
    for entry, config, result in zip(kept["tasks"], configs, results, strict=True):
        assert entry["task"] == "retrieval"
        assert entry["metrics"] == result.metrics
        assert entry["config"]["limit"] == config.limit
        assert {"versions", "machine", "code"} <= entry["record"].keys()


def test_two_models_are_compared_with_the_scores_that_each_has_alone(
    model: Path, data: SourceConfig, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=9)
    configs = [TaskConfig(task="retrieval", data=data), TaskConfig(task="captioning", data=data)]
    logged: list[str] = []
    both = side_by_side([model, other], configs, out=tmp_path / "out", log=logged.append)
    # A loaded model has the scores of its folder.
    assert both == [evaluate(load_coca(one), configs) for one in (model, other)]
    assert both[0] != both[1]
    assert logged[0].startswith(f"{model}: retrieval on ")
    assert logged[2].startswith(f"{other}: retrieval on ")
    kept = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    for entry, result in zip(kept["tasks"], both[1], strict=True):
        assert entry["compare"] == {str(other): result.metrics}
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"| this model | 95 % | {other} | chance |" in report


def test_a_second_evaluation_keeps_the_report_of_the_first(
    model: Path, data: SourceConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = (TaskConfig(task=name, data=data) for name in ("retrieval", "captioning"))
    evaluate(model, [first], out=out)
    evaluate(model, [first], out=out)
    reports = {name: (out / name).read_bytes() for name in ("report.json", "report.md")}
    assert not [*out.glob("report-*")], "the same report again takes its own place"
    evaluate(model, [second], out=out)
    evaluate(model, [first, second], out=out)
    for name, content in reports.items():
        stem, _, suffix = name.partition(".")
        assert (out / f"{stem}-1.{suffix}").read_bytes() == content
    kept = [json.loads((out / f"report{suffix}.json").read_text()) for suffix in ("-1", "-2", "")]
    assert [[task["task"] for task in one["tasks"]] for one in kept] == [
        ["retrieval"],
        ["captioning"],
        ["retrieval", "captioning"],
    ]


def test_a_comparison_of_a_model_with_itself_is_refused(model: Path, data: SourceConfig) -> None:
    with pytest.raises(ConfigError, match="is named twice"):
        side_by_side([model, model], [TaskConfig(task="retrieval", data=data)])


def test_an_unknown_task_is_reported_before_any_runs(model: Path, data: SourceConfig) -> None:
    missing = FolderConfig(path="none")
    configs = [TaskConfig(task="retrieval", data=missing), TaskConfig(task="retrievall", data=data)]
    with pytest.raises(ConfigError, match="did you mean 'retrieval'"):
        evaluate(model, configs)
    with pytest.raises(ConfigError, match="no task is named"):
        evaluate(model, [])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A task that notes each time it is run."""
    runs: list[str] = []
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))

    def task(predictor: TorchPredictor, config: TaskConfig) -> TaskResult:
        runs.append("first")
        return TaskResult("first", {"score": 0.5}, 4)

    TASKS.register("first")(task)
    return runs


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"data": FolderConfig(path="nowhere")}, "nowhere is not a folder"),
        ({"prompts": "none"}, "is not a prompt set"),
        ({"benchmark": "imagnet"}, "did you mean 'imagenet'"),
    ],
)
def test_what_would_stop_a_later_task_is_reported_before_the_first_is_run(
    model: Path, data: SourceConfig, counted: list[str], fault: dict[str, Any], message: str
) -> None:
    later = TaskConfig(task="zero_shot", data=data).replace(**fault)
    with pytest.raises(CocaError, match=message):
        evaluate(model, [TaskConfig(task="first", data=data), later])
    assert counted == []


def test_without_its_packages_the_page_is_missing_and_this_is_reported(
    model: Path,
    data: SourceConfig,
    tmp_path: Path,
    counted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    evaluate(model, [TaskConfig(task="first", data=data)], out=tmp_path)
    assert (tmp_path / "report.md").exists()
    assert not (tmp_path / "report.html").exists()
    assert "pip install" in caplog.text
