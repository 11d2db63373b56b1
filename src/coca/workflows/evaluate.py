"""A model's scores on one or several tasks: checked first, kept as they come, told in one report.

out/  report.json  report.md  report.html    scores for machines, for a page of text, with pictures
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
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.inference.remembering import Remembering
from coca.tasks import TASKS, TaskConfig, TaskResult
from coca.tasks.base import check_task
from coca.workflows.evaluation_report import write_reports
from coca.workflows.kept_results import Kept, keep, kept_at, place_of
from coca.workflows.published import benchmark_named


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
            without reading pictures is seen before any task runs.
    """
    if not configs:
        raise ConfigError(f"no task is named; known: {', '.join(TASKS.names())}")
    for config in configs:
        TASKS.get(config.task)
        if config.benchmark:
            benchmark_named(config.benchmark)
    predictor = model if isinstance(model, Predictor) else load(model, device=device)
    prints = [check_task(predictor, config) for config in configs]
    if len(configs) > 1:
        # Several tasks often look at the same samples.
        predictor = Remembering(predictor)
    entries = []
    for config, data in zip(configs, prints, strict=True):
        path = None
        if out is not None:
            path = place_of(Path(out) / "results", config, model=predictor.fingerprint, data=data)
        entries.append(_run(predictor, config, path, progress, tell))
    if out is not None:
        write_reports(Path(out), predictor, configs, entries)
    return [entry.result for entry in entries]


def _run(
    predictor: Predictor,
    config: TaskConfig,
    path: Path | None,
    progress: ProgressMaker,
    tell: Callable[[str], None],
) -> Kept:
    """The result of one task, from its file if it has been run before."""
    title = f"{config.task} on {config.data.title}"
    if path is not None and (before := kept_at(path)) is not None:
        tell(f"{title}: done before, in {before.seconds:.0f} s")
        return before
    tell(title)
    about = record(config=config, seed=0, data_fingerprint="", extra={})
    begun = time.perf_counter()
    result = TASKS.get(config.task)(predictor, config, progress=progress)
    entry = Kept(result, about, time.perf_counter() - begun)
    if path is not None:
        keep(path, entry)
    return entry
