"""A model's scores on one or several tasks, kept as one JSON file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coca.core.config import to_dict
from coca.core.errors import ConfigError
from coca.core.files import write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.core.provenance import record
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.inference.remembering import Remembering
from coca.tasks import TASKS, TaskConfig, TaskResult


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Several tasks in one file."""

    tasks: tuple[TaskConfig, ...]
    """Run in this order."""


def evaluate(
    model: Predictor | str | Path,
    configs: Sequence[TaskConfig],
    *,
    out: str | Path | None = None,
    device: str | None = None,
    progress: ProgressMaker = silent,
) -> list[TaskResult]:
    """Runs tasks one after the other.

    Args:
        model: A loaded model, or a folder to load.
        configs: The tasks, at least one.
        out: JSON file for scores, details, settings and provenance; written when all are done.
        device: Where a model that is loaded goes; see `coca.load`.
        progress: Shows how far it is.

    Returns:
        A result for each task, in their order.

    Raises:
        ConfigError: There is no task, or one of an unknown name; nothing has run then.
        CocaError: The model cannot be loaded, or the samples do not suit a task.
    """
    if not configs:
        raise ConfigError(f"no task is named; known: {', '.join(TASKS.names())}")
    # Before the first one takes its time.
    tasks = [TASKS.get(config.task) for config in configs]
    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    if len(tasks) > 1:
        # Several tasks often look at the same samples.
        predictor = Remembering(predictor)
    results = [
        task(predictor, config, progress=progress)
        for task, config in zip(tasks, configs, strict=True)
    ]
    if out is not None:
        _write(Path(out), predictor, configs, results)
    return results


def _write(
    path: Path, predictor: Predictor, configs: Sequence[TaskConfig], results: Sequence[TaskResult]
) -> None:
    content = {
        "model": predictor.source,
        "fingerprint": predictor.fingerprint,
        "tasks": [
            {
                "task": result.task,
                "metrics": dict(result.metrics),
                "samples": result.samples,
                "bad": list(result.bad),
                "details": dict(result.details),
                "config": to_dict(config),
                "record": record(config=config, seed=0, data_fingerprint="", extra={}),
            }
            for config, result in zip(configs, results, strict=True)
        ],
    }
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())
