import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coca.core.errors import ConfigError
from coca.train.tracker import CaptionSample, CaptionTracker, Tracker, make_trackers

RECIPE = {"seed": 3, "train": {"steps": 5, "groups": [{"match": "a"}], "ema": None}}


def webp() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "WEBP")
    return buffer.getvalue()


def killed_and_resumed(tracker: Tracker) -> None:
    """Log steps 1 to 4, then 3 to 5 again, as a run that resumes from step 2."""
    assert isinstance(tracker, CaptionTracker)
    tracker.rewind(0)
    for number in range(1, 5):
        tracker.log(number, {"loss": 1 / number, "lr": 0.1})
    tracker.rewind(2)
    for number in range(3, 6):
        tracker.log_captions(number, [CaptionSample(webp(), "a cat", ("one cat",))])
        tracker.log(number, {"loss": 1 / number, "lr": 0.1})
    tracker.close()


def records(content: bytes) -> Iterator[bytes]:
    """Read a file of an offline run: a header of 7 bytes, then records as of LevelDB's log."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32_768 - at % 32_768 < 7:  # the rest of a block is filled up
            at += 32_768 - at % 32_768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def test_mlflow_has_each_step_once_in_one_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tracker,) = make_trackers(["mlflow"], tmp_path)
    killed_and_resumed(tracker)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("coca")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(it.step, it.value) for it in history] == [(n, 1 / n) for n in range(1, 6)]
    assert run.data.params["train.groups.0.match"] == "a"
    assert run.info.status == "FINISHED"
    assert [it.path for it in client.list_artifacts(run.info.run_id, "captions")] == ["captions/5"]


def test_wandb_offline_has_each_step_once_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records_of = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tracker,) = make_trackers(["wandb"], tmp_path)
    killed_and_resumed(tracker)
    rows, runs = [], set()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for content in records(path.read_bytes()):
            record = records_of.Record()
            record.ParseFromString(content)
            if record.HasField("run"):
                runs.add(record.run.run_id)
            if record.HasField("history"):
                items = record.history.item
                rows.append({"/".join(it.nested_key): it.value_json for it in items})
    losses = [(int(row["_step"]), float(row["loss"])) for row in rows if "loss" in row]
    assert losses == [(n, 1 / n) for n in range(1, 6)]
    assert len(runs) == 1
    assert sum("captions" in str(row) for row in rows) == 1


def test_wandb_without_an_account_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**options: Any) -> None:
        raise wandb.errors.UsageError("api_key not configured (no-tty).\nmore lines")

    monkeypatch.setattr(wandb, "init", refuse)
    (tracker,) = make_trackers(["wandb"], tmp_path)
    with pytest.raises(ConfigError, match=r"log in with `wandb login`, set WANDB_MODE=offline"):
        tracker.rewind(0)
