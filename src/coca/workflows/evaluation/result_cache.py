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

from coca.core.config import digest
from coca.core.files import write_atomic
from coca.inference.predictor import Predictor
from coca.tasks import TaskConfig, TaskResult
from coca.tasks.report_samples import Confusion, Example, ImageRow, Shown

FORMAT = 1
"""Version of the cache; increased when the scores of a task change their meaning."""


@dataclass(frozen=True)
class CachedResult:
    """A task result with its provenance."""

    result: TaskResult
    """Result of the task."""
    record: Mapping[str, Any]
    """Code, versions and machine; see `coca.core.provenance`."""
    seconds: float
    """Duration of the task, in seconds."""


def result_key(predictor: Predictor, config: TaskConfig, *, data: str) -> str:
    """Hash everything that a task's scores depend on.

    Args:
        predictor: Model, hashed by its fingerprint and the precision of its weights.
        config: Configuration of the task.
        data: Hash of the data, from `check_task`.
    """
    precision = str(predictor.model.log_scale.dtype)
    key = " ".join((str(FORMAT), predictor.fingerprint, precision, digest(config), data))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def place_of(folder: Path, predictor: Predictor, config: TaskConfig, *, data: str) -> Path:
    """Return the cache file of a result; see `result_key`."""
    return folder / f"{config.task}-{result_key(predictor, config, data=data)}.json"


def keep(path: Path, kept: CachedResult) -> None:
    """Write a result to the cache, atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    content = {
        "result": asdict(kept.result),
        "record": dict(kept.record),
        "seconds": kept.seconds,
    }
    text = json.dumps(content, default=lambda picture: base64.b64encode(picture).decode())
    write_atomic(path, text.encode())


def kept_at(path: Path) -> CachedResult | None:
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
        _shown(found["shown"]),
    )
    return CachedResult(result, content["record"], content["seconds"])


def _shown(found: Mapping[str, Any]) -> Shown:
    confusion = found["confusion"]
    return Shown(
        tuple(
            ImageRow(
                strip["heading"],
                tuple(_case(case) for case in strip["cases"]),
                None if strip["lead"] is None else _case(strip["lead"]),
            )
            for strip in found["strips"]
        ),
        found["per_class"],
        None
        if confusion is None
        else Confusion(
            tuple(confusion["names"]), tuple(map(tuple, confusion["counts"])), confusion["classes"]
        ),
    )


def _case(found: Mapping[str, Any]) -> Example:
    picture = found["picture"]
    return Example(
        tuple(found["lines"]),
        None if picture is None else base64.b64decode(picture),
        found["right"],
    )
