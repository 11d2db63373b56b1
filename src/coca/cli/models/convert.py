"""Command `coca convert`: convert weights to and from OpenCLIP."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, Json, to_try
from coca.cli.options import defaults
from coca.core.errors import ConfigError


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
    if out.suffix.lower() in (".onnx", ".ort"):
        command = to_try("export", source, str(out.with_suffix("")), "--format", "onnx")
        raise ConfigError(
            f"convert does not write ONNX, and {out} is the name of such a file: {command}"
        )
    from coca.release import convert as workflow

    made = workflow.convert(source, out, to=None if to is None else to.value, vocabulary=vocabulary)
    console.say(f"{source} is now in {made}")
    console.emit({"out": str(made)})
