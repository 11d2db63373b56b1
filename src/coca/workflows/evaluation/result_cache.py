"""Cache of task results, so that finished tasks are not run again.

The file name is a hash of everything that a result depends on: model, precision, task settings and
content of the data.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coca.core.config.frozen_config import digest
from coca.core.files.atomic import write_atomic
from coca.runtime.base_predictor import BasePredictor
from coca.tasks import TaskConfig, TaskResult
from coca.tasks.task import Confusion, Example, ImageRow, ReportSamples

FORMAT = 6
"""Version of the cache; increased when the file format or the meaning of a score changes."""


@dataclass(frozen=True)
class CachedResult:
    """A task result with its provenance."""

    result: TaskResult
    """Result of the task."""
    record: Mapping[str, Any]
    """Code, versions and machine; see `coca.core.provenance`."""
    seconds: float
    """Duration of the task, in seconds."""


def result_key(predictor: BasePredictor, config: TaskConfig, *, data: str) -> str:
    """Hash everything that a task's scores depend on."""
    precision = f"torch.{predictor.dtype}"
    key = " ".join((str(FORMAT), predictor.model_fingerprint, precision, digest(config), data))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def cache_path(folder: Path, predictor: BasePredictor, config: TaskConfig, *, data: str) -> Path:
    """Return the cache file of a result; see `result_key`."""
    return folder / f"{config.task}-{result_key(predictor, config, data=data)}.json"


def write_result(path: Path, kept: CachedResult) -> None:
    """Write a result to the cache, atomically."""
    content = {"result": asdict(kept.result), "record": dict(kept.record), "seconds": kept.seconds}
    text = json.dumps(content, default=lambda image: base64.b64encode(image).decode())
    write_atomic(path, text.encode())


def read_result(path: Path) -> CachedResult | None:
    """Read a cached result; None if there is none."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    found = content["result"]
    result = TaskResult(
        found["task"],
        found["metrics"],
        found["samples"],
        tuple(found["bad"]),
        found["details"],
        tuple(found["headline"]),
        _report_samples(found["report_samples"]),
        {name: (low, high) for name, (low, high) in found["intervals"].items()},
        tuple(found["notes"]),
    )
    return CachedResult(result, content["record"], content["seconds"])


def _report_samples(found: Mapping[str, Any]) -> ReportSamples:
    confusion = found["confusion"]
    return ReportSamples(
        tuple(
            ImageRow(
                row["heading"],
                tuple(map(_example, row["examples"])),
                None if row["lead"] is None else _example(row["lead"]),
            )
            for row in found["rows"]
        ),
        found["per_class"],
        None
        if confusion is None
        else Confusion(
            tuple(confusion["names"]), tuple(map(tuple, confusion["counts"])), confusion["classes"]
        ),
    )


def _example(found: Mapping[str, Any]) -> Example:
    image = found["image"]
    return Example(
        tuple(found["lines"]),
        None if image is None else base64.b64decode(image),
        found["correct"],
    )
