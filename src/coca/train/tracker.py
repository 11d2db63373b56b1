"""Trackers and metrics of a run: JSON lines, TensorBoard, W&B, rates and running means."""

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from coca.core.errors import StorageError
from coca.core.extras import require
from coca.core.files.atomic import append_line, read_json, write_atomic
from coca.core.registry import Registry

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


@runtime_checkable
class Tracker(Protocol):
    """Logs the metrics of a run, so that each step appears once after any number of restarts."""

    def rewind(self, step: int) -> None:
        """Remove all rows after `step`; called once before the first `log` of each start."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step; steps increase."""
        ...

    def close(self) -> None:
        """Flush buffered rows; `rewind` opens again."""
        ...


class CaptionSample(NamedTuple):
    """A held-out image with the caption that the model generates at some step."""

    image: bytes
    """A thumbnail, as WebP."""
    caption: str
    references: tuple[str, ...]
    """Captions of the data."""


@runtime_checkable
class CaptionTracker(Protocol):
    """Optional interface of a tracker that shows sample captions with their images."""

    def log_captions(self, step: int, samples: Sequence[CaptionSample]) -> None:
        """Log sample captions of one step."""
        ...


TrackerMaker: TypeAlias = Callable[[Path], Tracker]
"""Creates a tracker from the run's folder."""

TRACKERS: Registry[TrackerMaker] = Registry("tracker", "trackers")


def make_trackers(names: Iterable[str], run_dir: str | Path) -> list[Tracker]:
    """Create one tracker per name."""
    return [TRACKERS.get(name)(Path(run_dir)) for name in names]


@TRACKERS.register("jsonl")
class JsonLinesTracker:
    """One JSON object per line in `metrics.jsonl`: `step`, then the metrics sorted by name.

    A non-finite metric is written as null, since JSON cannot represent it.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / METRICS_FILE

    def rewind(self, step: int) -> None:
        """Truncate the file after `step`, and remove an incomplete line in any case."""
        if not self.path.exists():
            return
        with storage_errors(self.path):
            lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [
            line
            for line in lines
            if line.endswith(b"\n") and (row := _row(line)) is not None and row["step"] <= step
        ]
        if kept != lines:
            write_atomic(self.path, b"".join(kept))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row."""
        row = {
            name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())
        }
        append_line(self.path, json.dumps({"step": step, **row}))

    def close(self) -> None:
        """Do nothing: each row is written at once."""


@TRACKERS.register("tensorboard")
class TensorBoardTracker:
    """Scalars under `tensorboard/`, for `tensorboard --logdir`; needs the extra `train`."""

    def __init__(self, run_dir: Path) -> None:
        require("tensorboard", extra="train")
        self.folder = run_dir / TENSORBOARD_FOLDER
        self._writer: Any = None

    def rewind(self, step: int) -> None:
        """Open a new event file, which hides older events after `step`."""
        writer = require("torch.utils.tensorboard", extra="train").SummaryWriter
        self.close()
        with storage_errors(self.folder):
            self._writer = writer(str(self.folder), purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        assert self._writer is not None, "rewind opens the writer"
        with storage_errors(self.folder):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def log_captions(self, step: int, samples: Sequence[CaptionSample]) -> None:
        """Add each image, and one text with all captions."""
        assert self._writer is not None, "rewind opens the writer"
        with storage_errors(self.folder):
            for number, sample in enumerate(samples):
                pixels = np.asarray(_opened(sample.image))
                self._writer.add_image(f"captions/{number}", pixels, step, dataformats="HWC")
            lines = (f"{number}. {sample.caption}" for number, sample in enumerate(samples))
            self._writer.add_text("captions", "  \n".join(lines), step)

    def close(self) -> None:
        """Flush buffered events and close the event file."""
        if self._writer is not None:
            with storage_errors(self.folder):
                self._writer.close()
            self._writer = None


def recipe_of(run_dir: Path) -> dict[str, Any]:
    """Read the settings of a run; a trainer without a recipe has none."""
    path = run_dir / "recipe.json"
    return dict(read_json(path)) if path.exists() else {}


def _opened(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image)).convert("RGB")


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise a StorageError that names a path in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read or written: {error.strerror or error}"
        ) from error


# Training metrics: means over logging intervals, skipped steps and throughput.


class MetricsLogger:
    """Averages the metrics of steps into rows; its state is saved in checkpoints, its clock is not.

    A step whose loss or gradient is not finite is counted and excluded from the means.
    """

    def __init__(self) -> None:
        self.bad_steps = 0
        """Number of skipped steps of the whole run."""
        self.bad_in_a_row = 0
        """Number of consecutive skipped steps up to now."""
        self.last_row: dict[str, float] = {}
        """The newest row; empty before the first."""
        self.begin_row()

    def start_clock(self) -> None:
        """Restart the measurement of throughput."""
        self._pairs, self._since = 0, time.monotonic()

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Leave the block out of the measurement of throughput."""
        stopped = time.monotonic()
        yield
        self._since += time.monotonic() - stopped

    def begin_row(self) -> None:
        """Reset the means for the next row."""
        self._sums: dict[str, float] = {}
        self._good_steps = 0
        self.start_clock()

    def add(self, metrics: Mapping[str, float], *, pairs: int) -> bool:
        """Add the metrics of one step; return whether its loss and gradient are finite."""
        self._pairs += pairs
        good = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        if not good:
            self.bad_steps += 1
            self.bad_in_a_row += 1
            return False
        self.bad_in_a_row = 0
        self._good_steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return True

    @property
    def pairs_per_s(self) -> float:
        """Throughput since the last row, in pairs per second."""
        return self._pairs / max(time.monotonic() - self._since, 1e-9)

    def row(self, scores: Mapping[str, float] | None = None, *, lr: float) -> dict[str, float]:
        """Compute the row: means, learning rate, number of skipped steps, throughput, `scores`."""
        means = {name: total / self._good_steps for name, total in self._sums.items()}
        self.last_row = {
            **means,
            "lr": lr,
            "bad_steps": float(self.bad_steps),
            "pairs_per_s": self.pairs_per_s,
            **(scores or {}),
        }
        return self.last_row

    def state(self) -> dict[str, Any]:
        """Return the state without the clock, as JSON values."""
        return {
            "bad_steps": self.bad_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "last_row": self.last_row,
            "sums": self._sums,
            "good_steps": self._good_steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.bad_steps, self.bad_in_a_row = state["bad_steps"], state["bad_in_a_row"]
        self.last_row = dict(state["last_row"])
        self._sums, self._good_steps = dict(state["sums"]), state["good_steps"]
