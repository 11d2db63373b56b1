"""Command `coca runs`: list and compare training runs."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of runs, or one run.")],
    *,
    console: Console,
) -> None:
    """List and compare runs: settings that differ, losses, scores; also while they train."""
    from coca.workflows.training.runs import differences, find_runs

    found = find_runs(folder)
    different = differences(found)
    rows = []
    for run, settings in zip(found, different, strict=True):
        best = run.best
        scores = [f"{name} {it:.4g}" for name, it in run.metrics.items() if "/" in name]
        row = [run.name, f"{run.step:,} of {run.settings.get('train.steps', 0):,}"]
        row.append(f"{run.metrics['loss']:.4g}" if "loss" in run.metrics else "")
        row.append(", ".join(scores))
        row.append(f"{best.score} {best.value:.4g} at {best.step:,}" if best else "")
        row.append(", ".join(f"{name}={value}" for name, value in settings.items()))
        rows.append(row)
    columns = ["run", "step", "loss", "scores", "best", "settings that differ"]
    console.table(columns, rows, right=["step", "loss"])
    console.emit(
        [
            {**vars(run), "best": run.best and run.best._asdict(), "different": settings}
            for run, settings in zip(found, different, strict=True)
        ]
    )
