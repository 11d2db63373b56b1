"""Command `coca release`, for maintainers: add a trained model to this package."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, Json


def release(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Runs of one recipe; the model of the first is released."
        ),
    ],
    tasks: Annotated[Path, typer.Option("--tasks", help="Tasks to score each run on.")] = Path(
        "recipes/evaluate/nano.yaml"
    ),
    data: Annotated[Path, typer.Option("--data", help="Output of `coca data emoji-sets`.")] = Path(
        "runs/nano-data"
    ),
    into: Annotated[Path, typer.Option("--into", help="Folder to write.")] = Path(
        "src/coca/weights/nano"
    ),
    as_json: Json = False,
) -> None:
    """Add a trained model to the package: fp16 weights and a model card over all seeds."""
    console = Console.current(json=as_json)
    from coca.core.config import load_config
    from coca.release.release_nano import release_model as workflow
    from coca.workflows.evaluation.evaluate import SuiteConfig

    released = workflow(
        runs,
        load_config(SuiteConfig, tasks).tasks,
        into,
        data=data,
        progress=console.progress,
        log=console.note,
    )
    console.say(
        f"{released.folder} holds {released.size_bytes / 1e6:.1f} MB; half precision moves "
        f"embeddings by at most {released.largest_change:.1e}"
    )
    console.emit(
        {
            "folder": str(released.folder),
            "size_bytes": released.size_bytes,
            "largest_change": released.largest_change,
        }
    )
