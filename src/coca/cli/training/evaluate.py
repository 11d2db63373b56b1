"""Command `coca evaluate`: score models on downstream tasks."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options import defaults
from coca.cli.options.recipes import Settings, for_all_tasks
from coca.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from coca.tasks import TaskConfig, TaskResult


@shows_progress
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or run.")],
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK|FIELD=VALUE",
            help="Names of tasks or YAML files (one task, or a list `tasks`), and overrides of all "
            "of them: retrieval data.kind=shards data.path='photos/*.tar'.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the report.",
            show_default="runs/evaluate/MODEL",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", "-b", help="Another model to compare with; may be repeated."),
    ] = None,
    *,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Evaluate a model on tasks, compared with chance level and other models."""
    from coca.tasks import TASKS
    from coca.workflows.evaluation import evaluate as workflow
    from coca.workflows.evaluation.evaluation_report import overview

    if not tasks:
        raise ConfigError(
            f"no task is given, such as: coca evaluate {shlex.quote(model)} retrieval "
            "data.kind=shards data.path='photos/*.tar'; tasks: " + ", ".join(sorted(TASKS.names()))
        )
    given = Settings.of(tasks, folder="evaluate", names=TASKS.names())
    configs = [config for name in given.recipes for config in _configs(name, given.changes)]
    folder = out or Path("runs", "evaluate", re.sub(r"[^\w.]+", "-", model).strip("-."))
    results, *of_others = workflow.side_by_side(
        [model, *(compare or [])],
        configs,
        out=folder,
        execution=execution,
        log=console.note,
    )
    others = dict(zip(compare or [], of_others, strict=True))
    pairs = list(zip(configs, results, strict=True))
    for config, result in pairs:
        print_scores(console, config, result)
    if others or len(pairs) > 1 or any(config.benchmark for config in configs):
        table = overview(pairs, others)
        cells = [[text for text, _ in row] for row in table.cells()]
        console.table(table.columns, cells, right=table.columns[2:])
    for name in ("report.json", "report.md", "report.html"):
        if (folder / name).exists():
            console.say(f"report: {folder / name}")
    entries: list[dict[str, Any]] = [
        {
            "task": result.task,
            "metrics": dict(result.metrics),
            "compare": {name: dict(theirs[number].metrics) for name, theirs in others.items()},
        }
        for number, result in enumerate(results)
    ]
    console.emit(entries[0] if len(entries) == 1 else entries)


def _configs(name: str, changes: tuple[str, ...]) -> "Sequence[TaskConfig]":
    """Load the tasks of a YAML file or a task name."""
    from coca.core.config.frozen_config import load_config
    from coca.core.config.recipe import read_recipe
    from coca.tasks import TASKS, TaskConfig
    from coca.workflows.evaluation.evaluate import SuiteConfig

    path = Path(name)
    if path.is_file() or name.endswith((".yaml", ".yml")):
        tasks = read_recipe(path).get("tasks")
        if isinstance(tasks, list):
            changes = tuple(for_all_tasks(len(tasks), changes))
            return load_config(SuiteConfig, path, overrides=changes, find_data=True).tasks
        return [load_config(TaskConfig, path, overrides=changes, find_data=True)]
    if name not in TASKS.names():
        raise ConfigError(
            f"{name!r} is neither a task nor a YAML file; {did_you_mean(name, TASKS.names())}"
        )
    return [load_config(TaskConfig, {"task": name}, overrides=changes)]


def print_scores(console: Console, config: "TaskConfig", result: "TaskResult") -> None:
    """Print the unreadable samples, the notes and the scores of a task."""
    from coca.tasks.baselines import SCORE_COLUMNS, score_rows

    for sentence in result.bad:
        console.complain(sentence)
    console.say(f"{result.task} on {result.samples} samples of {config.data.title}")
    for sentence in result.notes:
        console.say(sentence)
    rows = score_rows(result.metrics, result.intervals)
    shown = [[name.replace("_", " "), *others] for name, *others in rows]
    console.table(SCORE_COLUMNS, shown, right=SCORE_COLUMNS[1:])
