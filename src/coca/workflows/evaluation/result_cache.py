"""Results of tasks as files, so that what is done is not done again after a stop.

A file is named by what the result depends on: the model and its precision, the task's settings, and
the content of the data. What changes one of them changes the name, and the task is run.
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
"""Files of another format are not read; goes up whenever a task's scores change their meaning."""


@dataclass(frozen=True)
class CachedResult:
    """A result with where it comes from."""

    result: TaskResult
    """What the task found."""
    record: Mapping[str, Any]
    """Code, versions and machine; see `coca.core.provenance`."""
    seconds: float
    """How long the task took."""


def result_key(predictor: Predictor, config: TaskConfig, *, data: str) -> str:
    """Hash all that a task's scores depend on.

    Args:
        predictor: Counts by its fingerprint and the precision of its weights.
        config: The task's settings.
        data: Hash of the data, from `check_task`.
    """
    precision = str(predictor.model.log_scale.dtype)
    key = " ".join((str(FORMAT), predictor.fingerprint, precision, digest(config), data))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def place_of(folder: Path, predictor: Predictor, config: TaskConfig, *, data: str) -> Path:
    """The file of a result in the folder that holds them; see `result_key`."""
    return folder / f"{config.task}-{result_key(predictor, config, data=data)}.json"


def keep(path: Path, kept: CachedResult) -> None:
    """Writes a result; a reader sees all of it or nothing.

    Raises:
        StorageError: It cannot be written.
    """
    content = {
        "result": asdict(kept.result),
        "record": dict(kept.record),
        "seconds": kept.seconds,
    }
    text = json.dumps(content, default=lambda picture: base64.b64encode(picture).decode())
    write_atomic(path, text.encode())


def kept_at(path: Path) -> CachedResult | None:
    """The result in a file; None if there is none."""
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
