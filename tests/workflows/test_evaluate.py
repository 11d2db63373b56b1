import json
from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.data.sources import SourceConfig
from coca.inference.loading import load
from coca.tasks import TaskConfig
from coca.workflows.evaluate import evaluate
from tiny_data import picture
from tiny_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def data(tmp_path: Path) -> SourceConfig:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number))
        (folder / f"{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    return SourceConfig(kind="folder", path=str(folder))


def test_tasks_are_scored_in_their_order_and_kept_with_where_they_come_from(
    model: Path, data: SourceConfig, tmp_path: Path
) -> None:
    configs = [
        TaskConfig(task="retrieval", data=data),
        TaskConfig(task="retrieval", data=data, limit=2),
    ]
    out = tmp_path / "deep" / "scores.json"
    results = evaluate(model, configs, out=out)
    assert [result.samples for result in results] == [4, 2]
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert (kept["model"], kept["fingerprint"]) == (str(model), load(model).fingerprint)
    for entry, config, result in zip(kept["tasks"], configs, results, strict=True):
        assert entry["task"] == "retrieval"
        assert entry["metrics"] == result.metrics
        assert entry["config"]["limit"] == config.limit
        assert {"versions", "machine", "code"} <= entry["record"].keys()


def test_a_loaded_model_gives_the_scores_of_its_folder(model: Path, data: SourceConfig) -> None:
    config = TaskConfig(task="retrieval", data=data)
    assert evaluate(load(model), [config]) == evaluate(model, [config])


def test_an_unknown_task_is_told_before_any_runs(model: Path, data: SourceConfig) -> None:
    missing = SourceConfig(kind="folder", path="none")
    configs = [TaskConfig(task="retrieval", data=missing), TaskConfig(task="retrievall", data=data)]
    with pytest.raises(ConfigError, match="did you mean 'retrieval'"):
        evaluate(model, configs)
    with pytest.raises(ConfigError, match="no task is named"):
        evaluate(model, [])
