"""Command `coca demo`: index, search and caption images in one run."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, shows_progress, to_try
from coca.model.shipped import DEFAULT_MODEL

SHOWN, OWN = Path("runs/demo"), Path("runs/my-images")


@shows_progress
def demo(
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder of your own images to index, search and caption in place of the photos "
            "in the package.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Output folder; default: runs/demo, or runs/my-images with --images."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model to demonstrate: its name or folder.")
    ] = DEFAULT_MODEL,
    uri: Annotated[
        str,
        typer.Option(
            "--uri",
            help="Path of a SQLite file, address of a Milvus server, or milvus-lite:PATH; default: "
            "pictures.db in the output folder.",
            show_default=False,
        ),
    ] = "",
    *,
    console: Console,
) -> None:
    """Index, search and caption 400 photos, and write a report.

    The same command resumes an interrupted demo.
    """
    from coca.workflows.demo import run as workflow

    folder = folder or (SHOWN if images is None else OWN)
    result = workflow.demo(folder, images=images, model=model, uri=uri, log=console.note)
    console.emit(
        {
            "folder": str(folder),
            "model": model,
            "uri": result.uri,
            "collection": result.collection,
            "report": str(result.report),
            "images": result.count,
        }
    )
    console.say(f"report:     {result.report}")
    console.say(f"model:      {model}")
    console.say(f"collection: {result.collection} in {result.uri}, {result.count:,} images")
    console.say("try next:")
    # The shipped model and the demo's collection are the defaults of the commands.
    of_model = [] if model == DEFAULT_MODEL else ["--model", model]
    of_uri = [] if folder == SHOWN and not uri else ["--uri", result.uri]
    of_uri += ["--collection", result.collection] if uri else []
    here, example = Path.cwd(), result.example
    example = example.relative_to(here) if example.is_relative_to(here) else example
    for words in (
        ["search", "red car", *of_uri],
        ["search", "--image", str(example), *of_uri],
        ["serve", "--open", *of_uri],
        ["caption", str(example), *of_model],
        ["classify", str(example), "--labels", "animal,building,food,vehicle", *of_model],
    ):
        console.say(f"  {to_try(*words)}")
