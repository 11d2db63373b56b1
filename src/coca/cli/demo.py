"""The whole way on real pictures, by one command."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, Json, to_try
from coca.cli.train import STOPPED


def demo(
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUE",
            help="Changes to the recipe, such as train.steps=100.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where everything goes.")] = Path(
        "runs/demo"
    ),
    recipe: Annotated[Path, typer.Option("--recipe", help="What to train.")] = Path(
        "recipes/pretrain/emoji.yaml"
    ),
    as_json: Json = False,
) -> None:
    """Train on one vendor's emoji, then search, caption and score another vendor's.

    What is there already is not made again, so a demo that was stopped goes on.
    """
    console = Console.current(json=as_json)
    from coca.workflows import demo as workflow

    result = workflow.demo(
        folder,
        recipe=recipe,
        overrides=changes or [],
        progress=console.progress,
        tell=console.note,
    )
    console.emit(
        {
            "folder": str(result.folder),
            "model": str(result.model),
            "uri": str(result.index),
            "report": str(result.report),
            "interrupted": result.interrupted,
        }
    )
    if result.interrupted:
        console.say(f"stopped, and saved in {result.folder}; the same command goes on from there")
        raise typer.Exit(STOPPED)
    console.say(f"report:     {result.report}")
    console.say(f"model:      {result.model}")
    console.say(f"collection: {result.index}")
    console.say("try next:")
    # Where the demo stands in its usual place, commands find it by themselves.
    usual = folder == Path("runs/demo")
    model = [] if usual else ["--model", str(result.model)]
    uri = [] if usual else ["--uri", str(result.index)]
    example = str(result.example)
    for words in (
        ["search", "red car", *uri],
        ["search", "--image", example, *uri],
        ["caption", example, *model],
        ["classify", example, "--labels", "car,frog,apple", *model],
    ):
        console.say(f"  {to_try(*words)}")
