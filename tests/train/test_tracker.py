import json
import math
import re
import threading
from pathlib import Path

import pytest

from coca.core.errors import ConfigError, StorageError
from coca.train.tracker import (
    METRICS_FILE,
    TENSORBOARD_FOLDER,
    TRACKERS,
    JsonLinesTracker,
    MetricsLogger,
    TensorBoardTracker,
    make_trackers,
)
from tiny_run import read_metrics


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder)]


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / TENSORBOARD_FOLDER)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_rows_are_read_as_they_were_logged(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path)
    tracker.rewind(0)
    tracker.log(1, {"lr": 1e-3, "loss": 0.1 + 0.2})
    tracker.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.1 + 0.2, "lr": 1e-3}]
    # Names come in order.
    assert list(read_metrics(tmp_path)[0]) == ["step", "loss", "lr"]


def test_a_figure_that_is_not_finite_is_null(tmp_path: Path) -> None:
    JsonLinesTracker(tmp_path).log(1, {"loss": math.nan})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": None}]


def test_rewinding_forgets_rows_after_the_step_and_keeps_the_rest(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path)
    for step in range(1, 7):
        tracker.log(step, {"loss": float(step)})
    tracker.rewind(4)
    assert steps(tmp_path) == [1, 2, 3, 4]
    tracker.log(5, {"loss": 5.0})
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_rewinding_to_the_newest_row_leaves_the_file_alone(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path)
    tracker.log(1, {"loss": 1.0})
    before = (tmp_path / METRICS_FILE).stat()
    tracker.rewind(1)
    assert (tmp_path / METRICS_FILE).stat().st_ino == before.st_ino


@pytest.mark.parametrize("length", range(1, 25))
def test_a_torn_last_line_is_no_row_and_is_cut_off(tmp_path: Path, length: int) -> None:
    tracker = JsonLinesTracker(tmp_path)
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 2.0})
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-length])
    tracker.rewind(2)
    assert steps(tmp_path) == [1]
    assert path.read_bytes().endswith(b"}\n")


def test_a_line_that_is_no_row_is_removed(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('[1]\n{"loss": 1}\n{"step": 3}\n')
    JsonLinesTracker(tmp_path).rewind(3)
    assert read_metrics(tmp_path) == [{"step": 3}]


def test_a_folder_that_cannot_be_written_raises(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(StorageError, match=re.escape(METRICS_FILE)):
        JsonLinesTracker(tmp_path).log(1, {"loss": 1.0})
    with pytest.raises(StorageError, match=re.escape(METRICS_FILE)):
        JsonLinesTracker(tmp_path).rewind(1)


def test_tensorboard_hides_what_a_rewind_forgets(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    others = {*threading.enumerate()}
    tracker = TensorBoardTracker(tmp_path)
    tracker.rewind(0)
    for step in range(1, 5):
        tracker.log(step, {"loss": float(step)})
    writer = {*threading.enumerate()} - others
    tracker.rewind(2)
    assert writer
    assert writer.isdisjoint(threading.enumerate())
    tracker.log(3, {"loss": 30.0})
    tracker.close()
    tracker.close()
    assert curve(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_tensorboard_raises_for_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / TENSORBOARD_FOLDER).write_text("a file is in the way")
    with pytest.raises(StorageError, match=TENSORBOARD_FOLDER):
        TensorBoardTracker(tmp_path).rewind(0)


def test_trackers_are_made_by_name(tmp_path: Path) -> None:
    (tracker,) = make_trackers(("jsonl",), tmp_path)
    assert isinstance(tracker, JsonLinesTracker)
    assert {"jsonl", "tensorboard"} <= set(TRACKERS.names())
    with pytest.raises(ConfigError, match="did you mean 'jsonl'"):
        make_trackers(["json"], tmp_path)


def step(loss: float, norm: float = 1.0) -> dict[str, float]:
    return {"loss": loss, "grad_norm": norm}


def test_a_row_is_the_mean_of_its_steps() -> None:
    figures = MetricsLogger()
    for loss in (1.0, 2.0, 6.0):
        assert figures.add(step(loss), pairs=4)
    row = figures.row(lr=0.5)
    assert row["loss"] == 3.0
    assert row["lr"] == 0.5
    assert row["pairs_per_s"] > 0
    figures.begin_row()
    figures.add(step(8.0), pairs=4)
    assert figures.row(lr=0.5)["loss"] == 8.0


@pytest.mark.parametrize("bad", [step(math.nan), step(math.inf), step(1.0, math.inf)])
def test_a_step_that_is_not_finite_is_counted_and_enters_no_mean(bad: dict[str, float]) -> None:
    figures = MetricsLogger()
    figures.add(step(1.0), pairs=4)
    assert not figures.add(bad, pairs=4)
    assert figures.bad_in_a_row == 1
    figures.add(step(3.0), pairs=4)
    assert figures.bad_in_a_row == 0
    row = figures.row(lr=0.1)
    assert row["loss"] == 2.0
    assert row["bad_steps"] == 1.0


def test_a_row_of_bad_steps_only_has_no_loss() -> None:
    figures = MetricsLogger()
    figures.add(step(math.nan), pairs=4)
    row = figures.row(lr=0.1)
    assert "loss" not in row
    assert row["bad_steps"] == 1.0


def test_the_state_survives_json_exactly() -> None:
    figures, restored = MetricsLogger(), MetricsLogger()
    for loss in (0.1, 0.2, math.nan):
        figures.add(step(loss), pairs=4)
    figures.row(lr=0.1)
    restored.restore(json.loads(json.dumps(figures.state())))
    for gathered in (figures, restored):
        gathered.add(step(0.3), pairs=4)
    assert restored.state() == figures.state()
