import io
import json
from pathlib import Path

import pytest
from PIL import Image

from coca.train.tracker import CaptionSample, CaptionTracker, make_trackers

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")

RECIPE = {"seed": 3, "train": {"steps": 5, "groups": [{"match": "a"}]}}


def webp() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "WEBP")
    return buffer.getvalue()


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tracker,) = make_trackers(["mlflow"], tmp_path)
    assert isinstance(tracker, CaptionTracker)
    tracker.rewind(0)
    for number in range(1, 5):
        tracker.log(number, {"loss": 1 / number, "lr": 0.1})
    tracker.rewind(2)
    for number in range(3, 6):
        tracker.log_captions(number, [CaptionSample(webp(), "a cat", ("one cat",))])
        tracker.log(number, {"loss": 1 / number, "lr": 0.1})
    tracker.close()
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("coca")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(it.step, it.value) for it in history] == [(n, 1 / n) for n in range(1, 6)]
    assert run.data.params["train.groups.0.match"] == "a"
    assert run.info.status == "FINISHED"
    assert [it.path for it in client.list_artifacts(run.info.run_id, "captions")] == ["captions/5"]
