"""Command `coca runs`: list and compare training runs."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of runs, or one run.")],
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Also write a page with curves and sample captions."),
    ] = None,
    *,
    console: Console,
) -> None:
    """List and compare runs: settings that differ, losses, scores; also while they train.

    With --json, the output contains the curves.
    """
    from coca.workflows.training import runs as workflow

    found = workflow.find_runs(folder)
    different = workflow.differences(found)
    console.table(
        ["run", "step", "loss", "scores", "best", "settings that differ"],
        [
            [
                run.name,
                f"{run.step:,} of {run.steps:,}",
                f"{run.metrics['loss']:.4g}" if "loss" in run.metrics else "",
                ", ".join(f"{name} {it:.4g}" for name, it in workflow.scores_of(run).items()),
                f"{run.best.score} {run.best.value:.4g} at {run.best.step:,}" if run.best else "",
                ", ".join(f"{name}={value}" for name, value in different[run.name].items()),
            ]
            for run in found
        ],
        right=["step", "loss"],
    )
    if html is not None:
        workflow.write_page(html, found)
        console.say(f"page: {html}")
    console.emit(
        [
            {
                "run": str(run.folder),
                "step": run.step,
                "steps": run.steps,
                "metrics": dict(run.metrics),
                "best": run.best._asdict() if run.best else None,
                "different": different[run.name],
                "curves": run.curves,
            }
            for run in found
        ]
    )
