"""Evaluation workflow: check tasks, run them, and write one report.

out/  report.json  report.md  report.html    machine-readable scores, text, and text with images
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from coca.core.config.execution import DEFAULT, Execution
from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.core.provenance import record
from coca.predict.caching import caching
from coca.predict.loading import load
from coca.predict.predictor import Predictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.task import check_task
from coca.workflows.evaluation.evaluation_report import Evaluated, benchmark_named, write_reports


class SuiteConfig(Config):
    """A suite of tasks in one recipe."""

    tasks: tuple[TaskConfig, ...]
    """Tasks, in the order of execution."""


def evaluate(
    model: Predictor | str | Path,
    configs: Sequence[TaskConfig],
    *,
    out: str | Path | None = None,
    execution: Execution = DEFAULT,
    log: Callable[[str], None] = lambda line: None,
) -> list[TaskResult]:
    """Evaluate a model on tasks, in order.

    Returns:
        One result per task, in order.

    Raises:
        ConfigError: There is no task, or a task is unknown or misconfigured; no task has run.
        CocaError: The model cannot be loaded, or the samples lack what a task needs. Errors that
            need no images are raised before any task runs.
    """
    (results,) = side_by_side([model], configs, out=out, execution=execution, log=log)
    return results


def side_by_side(
    models: Sequence[Predictor | str | Path],
    configs: Sequence[TaskConfig],
    *,
    out: str | Path | None = None,
    execution: Execution = DEFAULT,
    log: Callable[[str], None] = lambda line: None,
) -> list[list[TaskResult]]:
    """Evaluate several models on the same tasks; the report compares the first with the others.

    Everything else is as in `evaluate`.

    Returns:
        For each model, one result per task.

    Raises:
        ConfigError: A model is given twice, or as in `evaluate`.
        CocaError: As in `evaluate`.
    """
    if not configs:
        raise ConfigError(f"no task is named; known: {', '.join(TASKS.names())}")
    for config in configs:
        TASKS.get(config.task)
        if config.benchmark:
            benchmark_named(config.benchmark)
    names = [it.source if isinstance(it, Predictor) else str(it) for it in models]
    if len({*names}) < len(names):
        raise ConfigError(f"one of the models {', '.join(names)} is named twice")
    predictors = [it if isinstance(it, Predictor) else load(it, **vars(execution)) for it in models]
    for predictor in predictors:
        for config in configs:
            check_task(predictor, config)
    runs = [_run_all(predictor, configs, log) for predictor in predictors]
    results = [[entry.result for entry in entries] for entries in runs]
    if out is not None:
        compare = dict(zip(names[1:], results[1:], strict=True))
        write_reports(Path(out), predictors[0], configs, runs[0], name=names[0], compare=compare)
    return results


def _run_all(
    predictor: Predictor,
    configs: Sequence[TaskConfig],
    log: Callable[[str], None],
) -> list[Evaluated]:
    """Run all tasks with one model."""
    if len(configs) > 1:
        # Several tasks often read the same samples.
        predictor = caching(predictor)
    return [_run(predictor, config, log) for config in configs]


def _run(
    predictor: Predictor,
    config: TaskConfig,
    log: Callable[[str], None],
) -> Evaluated:
    """Run one task."""
    by = f"{predictor.source}: " if predictor.source else ""
    log(f"{by}{config.task} on {config.data.title}")
    about = record(config=config, seed=0, data_fingerprint="", extra={})
    begun = time.perf_counter()
    result = TASKS.get(config.task)(predictor, config)
    if config.limit:
        note = (
            f"limit: only the first {config.limit:,} samples are read; scores of a smaller set may "
            "be higher and are not comparable with published results"
        )
        result = replace(result, notes=(*result.notes, note))
    return Evaluated(result, about, time.perf_counter() - begun)
