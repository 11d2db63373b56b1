"""A model's scores on one or several tasks: checked first, kept as they come, told in one report.

out/  report.json  report.md  report.html    scores for machines, for a page of text, with images
      results/TASK-....json                  one for each finished task; what is there is not run
                                             again, whatever stopped an earlier call
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coca.core.errors import ConfigError
from coca.core.progress import ProgressMaker, silent
from coca.core.provenance import record
from coca.inference.caching import CachingPredictor
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.base import check_task
from coca.workflows.evaluation.evaluation_report import write_reports
from coca.workflows.evaluation.reference_results import benchmark_named
from coca.workflows.evaluation.result_cache import CachedResult, keep, kept_at, place_of


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
    tell: Callable[[str], None] = lambda line: None,
) -> list[TaskResult]:
    """Runs tasks one after the other.

    Args:
        model: A loaded model, or a folder to load.
        configs: The tasks, at least one.
        out: Folder for the report and for results; a task whose result is there is not run again.
            None: nothing is written.
        device: Where a model that is loaded goes; see `coca.load`.
        progress: Shows how far it is.
        tell: Gets a line for each task.

    Returns:
        A result for each task, in their order.

    Raises:
        ConfigError: There is no task, one of an unknown name, or one that cannot be run as it is;
            nothing has run then.
        CocaError: The model cannot be loaded, or the samples do not suit a task. What can be seen
            without reading images is seen before any task runs.
    """
    (results,) = side_by_side(
        [model], configs, out=out, device=device, progress=progress, tell=tell
    )
    return results


def side_by_side(
    models: Sequence[Predictor | str | Path],
    configs: Sequence[TaskConfig],
    *,
    out: str | Path | None = None,
    device: str | None = None,
    progress: ProgressMaker = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> list[list[TaskResult]]:
    """Runs the same tasks by several models; the report is the first one's.

    The others' scores stand beside its own. Everything else is as in `evaluate`.

    Returns:
        For each model, a result for each task.

    Raises:
        ConfigError: A model is named twice, or as in `evaluate`.
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
    predictors = [it if isinstance(it, Predictor) else load(it, device=device) for it in models]
    prints = [[check_task(predictor, config) for config in configs] for predictor in predictors]
    runs = [
        _run_all(predictor, configs, found, out, progress, tell)
        for predictor, found in zip(predictors, prints, strict=True)
    ]
    results = [[entry.result for entry in entries] for entries in runs]
    if out is not None:
        beside = dict(zip(names[1:], results[1:], strict=True))
        write_reports(Path(out), predictors[0], configs, runs[0], name=names[0], beside=beside)
    return results


def _run_all(
    predictor: Predictor,
    configs: Sequence[TaskConfig],
    prints: Sequence[str],
    out: str | Path | None,
    progress: ProgressMaker,
    tell: Callable[[str], None],
) -> list[CachedResult]:
    """A model's results on all tasks."""
    if len(configs) > 1:
        # Several tasks often look at the same samples.
        predictor = CachingPredictor(predictor)
    entries = []
    for config, data in zip(configs, prints, strict=True):
        path = None
        if out is not None:
            path = place_of(Path(out) / "results", predictor, config, data=data)
        entries.append(_run(predictor, config, path, progress, tell))
    return entries


def _run(
    predictor: Predictor,
    config: TaskConfig,
    path: Path | None,
    progress: ProgressMaker,
    tell: Callable[[str], None],
) -> CachedResult:
    """The result of one task, from its file if it has been run before."""
    by = f"{predictor.source}: " if predictor.source else ""
    title = f"{by}{config.task} on {config.data.title}"
    if path is not None and (before := kept_at(path)) is not None:
        tell(f"{title}: done before, in {before.seconds:.0f} s")
        return before
    tell(title)
    about = record(config=config, seed=0, data_fingerprint="", extra={})
    begun = time.perf_counter()
    result = TASKS.get(config.task)(predictor, config, progress=progress)
    entry = CachedResult(result, about, time.perf_counter() - begun)
    if path is not None:
        keep(path, entry)
    return entry
