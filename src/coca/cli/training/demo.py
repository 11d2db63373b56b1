"""Command `coca demo`: index, search, caption and score photos and emoji in one run."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, to_try
from coca.cli.training.train import STOPPED
from coca.core.errors import ConfigError
from coca.weights import DEFAULT_MODEL

SHOWN, TRAINED = Path("runs/demo"), Path("runs/from-scratch")
OWN = Path("runs/my-images")


def demo(
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUE",
            help="With --from-scratch: overrides of the recipe, such as train.steps=100.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Output folder; default: runs/demo, or runs/from-scratch."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model to demonstrate: its name or folder.")
    ] = DEFAULT_MODEL,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder of your own images to index, search and caption in place of those of the "
            "demo; output in runs/my-images.",
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train a model first; takes minutes.")
    ] = False,
    recipe: Annotated[
        Path, typer.Option("--recipe", help="With --from-scratch: recipe to train.")
    ] = Path("recipes/pretrain/emoji.yaml"),
    *,
    console: Console,
) -> None:
    """Search and caption photos; search, caption and score drawings that no training has read.

    Existing results are reused, so the same command resumes an interrupted demo.
    """
    if changes and not from_scratch:
        raise ConfigError(f"{changes[0]} changes a recipe, which only --from-scratch trains")
    if images is not None and from_scratch:
        raise ConfigError(
            f"--images {images} and --from-scratch exclude each other; leave out one of the two"
        )
    from coca.demo import run as workflow

    if images is not None:
        from coca.demo.own_images import demo_on_images

        result = demo_on_images(
            images, folder or OWN, model=model, progress=console.progress, log=console.note
        )
    elif from_scratch:
        result = workflow.demo_from_scratch(
            folder or TRAINED,
            recipe=recipe,
            overrides=changes or [],
            progress=console.progress,
            log=console.note,
        )
    else:
        result = workflow.demo(
            folder or SHOWN, model=model, progress=console.progress, log=console.note
        )
    console.emit(
        {
            "folder": str(result.folder),
            "model": result.model,
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
    # The shipped model and the demo's collection are the defaults of the commands.
    shipped = [] if result.model == DEFAULT_MODEL else ["--model", result.model]
    uri = [] if result.folder == SHOWN else ["--uri", str(result.index)]
    both = [] if images else ["-c", "pictures", "-c", workflow.DRAWINGS]
    example = str(result.example)
    for words in (
        ["search", "red car", *uri],
        ["search", "--image", example, *uri],
        ["serve", "--open", *both, *uri],
        ["caption", example, *shipped],
        ["classify", example, "--labels", "animal,building,food,vehicle", *shipped],
    ):
        console.say(f"  {to_try(*words)}")
