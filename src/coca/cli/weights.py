"""Models as files: from OpenCLIP's form into ours and back, and as a folder to give away."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coca.cli import defaults
from coca.cli.console import Console, Json


class Form(StrEnum):
    """Forms that a model can be written in."""

    coca = "coca"
    openclip = "openclip"


Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a run, a shipped name, a file of OpenCLIP's weights, openclip:NAME/TAG, or "
        "hf:ORGANISATION/NAME.",
    ),
]


def convert(
    source: Source,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder, or for OpenCLIP a .safetensors, .bin or .pt file."
        ),
    ],
    to: Annotated[
        Form | None,
        typer.Option(
            "--to",
            help="Form to write; default: openclip if OUT is a file of weights, else coca.",
            show_default=False,
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary",
            help="CLIP's bpe_simple_vocab_16e6.txt.gz, merges.txt or tokenizer.json; default: "
            "beside the weights, in an installed open_clip_torch, or from the hub.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn OpenCLIP's weights into a model folder, or such a folder into OpenCLIP's weights."""
    console = Console.current(json=as_json)
    defaults.keep_downloads_quiet(console)
    from coca.release import convert as workflow

    made = workflow.convert(source, out, to=None if to is None else to.value, vocabulary=vocabulary)
    console.say(f"{source} is now in {made}")
    console.emit({"out": str(made)})


def export(
    model: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    title: Annotated[
        str, typer.Option("--title", help="The model's name; default: that of OUT.")
    ] = "",
    use: Annotated[str, typer.Option("--use", help="What it is good for.")] = "",
    limits: Annotated[str, typer.Option("--limits", help="What it is not good for.")] = "",
    licence: Annotated[
        str,
        typer.Option(
            "--licence",
            help="Licence of the weights, such as cc-by-4.0; default: that of the model's own "
            "card, else `unknown`.",
            show_default=False,
        ),
    ] = "",
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results",
            help="Scores that `coca evaluate --out` wrote; may be repeated.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights in 16 bits: half the size.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="ORGANISATION/NAME",
            help="Upload the folder to this repository of the Hugging Face hub.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Hide that repository.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model as a folder to share, with a card that says what it is and what it scored."""
    console = Console.current(json=as_json)
    defaults.keep_downloads_quiet(console)
    from coca.release import export as workflow
    from coca.release.model_card import UNKNOWN_LICENCE, licence_of

    made = workflow.export(
        model,
        out,
        title=title,
        intended_use=use,
        limits=limits,
        licence=licence,
        results=results or (),
        half=half,
        load_as=f"hf:{push}" if push else "",
    )
    console.say(f"{model} is in {made}; its card is {made / 'README.md'}")
    if licence_of(made) == UNKNOWN_LICENCE:
        console.say("the card states no licence: name the one of the weights by --licence")
    name = workflow.push_to_hub(made, push, private=private) if push else None
    if name:
        console.say(f"others load it as {name}")
    console.emit({"out": str(made), "pushed": name})
