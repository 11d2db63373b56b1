"""Commands `coca convert` (to and from OpenCLIP) and `coca export` (folder to share)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coca.cli import defaults
from coca.cli.console import Console, Json


class Form(StrEnum):
    """Formats that a model can be written in."""

    coca = "coca"
    openclip = "openclip"


Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder, run, name of a shipped model, OpenCLIP weights file, openclip:NAME/TAG, or "
        "hf:ORGANISATION/NAME.",
    ),
]


def convert(
    source: Source,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Model folder, or for OpenCLIP a .safetensors, .bin or .pt file."
        ),
    ],
    to: Annotated[
        Form | None,
        typer.Option(
            "--to",
            help="Output format; default: openclip if OUT is a weights file, else coca.",
            show_default=False,
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary",
            help="CLIP's bpe_simple_vocab_16e6.txt.gz, merges.txt or tokenizer.json; default: "
            "next to the weights, in an installed open_clip_torch, or from the hub.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert OpenCLIP weights to a model folder, or a model folder to OpenCLIP weights."""
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
        str, typer.Option("--title", help="Name of the model; default: name of OUT.")
    ] = "",
    use: Annotated[str, typer.Option("--use", help="Intended use, for the model card.")] = "",
    limits: Annotated[str, typer.Option("--limits", help="Limitations, for the model card.")] = "",
    licence: Annotated[
        str,
        typer.Option(
            "--licence",
            help="Licence of the weights, such as cc-by-4.0; default: licence in the model's own "
            "card, else `unknown`.",
            show_default=False,
        ),
    ] = "",
    card: Annotated[
        Path | None,
        typer.Option(
            "--card",
            metavar="FILE",
            help="YAML file with the text of the model card: title, intended_use, limits, licence, "
            "training, and data as a list of name, size and terms. Other options replace its "
            "values.",
            show_default=False,
        ),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results",
            help="Report of `coca evaluate --out`; may be repeated.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights as fp16, half the size.")
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
    private: Annotated[
        bool, typer.Option("--private", help="Make that repository private.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a model as a folder to share, with a model card and its scores."""
    console = Console.current(json=as_json)
    defaults.keep_downloads_quiet(console)
    from coca.core.config import load_config
    from coca.release import export as workflow
    from coca.release.model_card import UNKNOWN_LICENCE, CardConfig, licence_of

    options = {
        "title": title,
        "intended_use": use,
        "limits": limits,
        "licence": licence,
        "load_as": f"hf:{push}" if push else "",
    }
    given = {name: value for name, value in options.items() if value}
    text = load_config(CardConfig, card or {}, given)
    made = workflow.export(model, out, card=text, results=results or (), half=half)
    console.say(f"{model} is in {made}; its card is {made / 'README.md'}")
    if licence_of(made) == UNKNOWN_LICENCE:
        console.say("the card states no licence: name the one of the weights by --licence")
    name = workflow.push_to_hub(made, push, private=private) if push else None
    if name:
        console.say(f"others load it as {name}")
    console.emit({"out": str(made), "pushed": name})
