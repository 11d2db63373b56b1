"""Command `coca export`: write a model in a format to share or to run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, shows_progress, to_try
from coca.cli.options import defaults
from coca.core.errors import ConfigError, did_you_mean

Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder, run, name of a shipped model, OpenCLIP weights file, openclip:NAME/TAG, or "
        "hf:ORGANISATION/NAME.",
    ),
]


class ExportFormat(StrEnum):
    """Formats that a model can be exported in."""

    coca = "coca"
    onnx = "onnx"
    huggingface = "huggingface"


_FILE_SUFFIXES = {
    ".onnx": ExportFormat.onnx,
    ".ort": ExportFormat.onnx,
    **dict.fromkeys(
        (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".zip", ".tar", ".gz"), ExportFormat.coca
    ),
}
"""Suffixes of files, and the format whose folder contains such a file."""


@shows_progress
def export(
    model: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--format",
            help="coca: a model folder with a model card. huggingface: the same, and transformers "
            "loads it as well. onnx: graphs for ONNX Runtime, which run without torch. Plug-ins "
            "add more.",
        ),
    ] = ExportFormat.coca,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="Option of a format that a plug-in adds; may be repeated.",
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="With --format onnx: 8-bit weights of both encoders."),
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="With --format onnx: folder of images on which the files are compared with "
            "torch, at most 512 of them; default: drawn images.",
        ),
    ] = None,
    card: Annotated[
        list[str] | None,
        typer.Option(
            "--card",
            metavar="FILE|KEY=VALUE",
            help="Text of the model card: a YAML file or single values of title, intended_use, "
            "limits, licence, training, and data as a list of name, size and terms; may be "
            "repeated.",
        ),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="Report of `coca evaluate --out`; may be repeated."),
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
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make that repository private.")
    ] = False,
    *,
    console: Console,
) -> None:
    """Export a model as a folder to share, or as ONNX for ONNX Runtime.

    ONNX files are written only if their embeddings and captions match those of torch.
    """
    defaults.keep_downloads_quiet(console)
    onnx: dict[str, object] = {"--int8": int8, "--images": images}
    shared: dict[str, object] = {"--card": card, "--results": results, "--half": half}
    shared |= {"--push": push, "--private": private}
    if to not in [*ExportFormat]:
        _check_unused(onnx | shared, to)
        _export_by_plugin(console, model, out, to, options or [])
        return
    if options:
        raise ConfigError(f"--option applies to formats of plug-ins, got --format {to}")
    to = ExportFormat(to)
    _check_folder_name(model, out, to, int8=int8)
    if to is ExportFormat.onnx:
        _check_unused(shared, to)
        _export_onnx(console, model, out, int8=int8, images=images)
        return
    if int8 or images is not None:
        raise ConfigError("--int8 and --images apply to --format onnx: add it")
    from coca.core.config.frozen_config import load_config
    from coca.release import export as workflow
    from coca.release.model_card import UNKNOWN_LICENCE, CardConfig, licence_of

    given = card or []
    text = load_config(
        CardConfig,
        *(Path(one) for one in given if "=" not in one),
        {"load_as": f"hf:{push}"} if push else {},
        overrides=[one for one in given if "=" in one],
    )
    made = workflow.export(model, out, card=text, results=results or (), half=half)
    if to is ExportFormat.huggingface:
        from coca.release.export import add_auto_map

        add_auto_map(made)
    console.say(f"{model} is in {made}; its card is {made / 'README.md'}")
    if licence_of(made) == UNKNOWN_LICENCE:
        console.say("the card states no licence: add that of the weights with --card licence=NAME")
    name = workflow.push_to_hub(made, push, private=private) if push else None
    if name:
        console.say(f"others load it as {name}")
    console.emit({"out": str(made), "pushed": name})


def _export_by_plugin(
    console: Console, model: str, out: Path, to: str, options: Sequence[str]
) -> None:
    """Export in a format that a plug-in adds."""
    from coca.release.export import EXPORTERS

    pairs = [option.partition("=")[::2] for option in options]
    if bad := [option for option in options if "=" not in option]:
        raise ConfigError(f"--option must be KEY=VALUE, got {bad[0]!r}")
    if to not in EXPORTERS.names():
        raise ConfigError(
            f"unknown export format {to!r}; {did_you_mean(to, [*ExportFormat, *EXPORTERS.names()])}"
        )
    result = EXPORTERS.get(to)(model, out, options=dict(pairs))
    console.say(f"{model} is in {out}")
    console.table(["result", "value"], [[key, str(value)] for key, value in result.items()])
    console.emit({"out": str(out), **result})


def _check_folder_name(model: str, out: Path, to: ExportFormat, *, int8: bool) -> None:
    """Reject an output folder with the name of a file, with the command for such a file."""
    suffix = out.suffix.lower()
    if suffix not in _FILE_SUFFIXES:
        return
    wanted = _FILE_SUFFIXES[suffix] if to is ExportFormat.coca else to
    options = ["--format", wanted.value] if wanted is not ExportFormat.coca else []
    command = to_try(
        "export", model, str(out.with_suffix("")), *options, *(["--int8"] if int8 else [])
    )
    raise ConfigError(
        f"OUT is a folder, and {out} is the name of a file; a folder with {suffix} files is "
        f"written by: {command}"
    )


def _check_unused(values: Mapping[str, object], to: str) -> None:
    """Reject options with a value that the format does not use."""
    if unused := [name for name, value in values.items() if value]:
        several = len(unused) > 1
        raise ConfigError(
            f"{', '.join(unused)} {'do' if several else 'does'} not apply to --format {to}: leave "
            f"{'them' if several else 'it'} out"
        )


def _export_onnx(
    console: Console, model: str, out: Path, *, int8: bool, images: Path | None
) -> None:
    from coca.release.onnx.gates import GateResult
    from coca.release.onnx.onnx_export import export_onnx

    result = export_onnx(model, out, int8=int8, images=images)
    console.say(
        f"{model} is in {out}, compared with torch on {result.images} images "
        f"({result.image_source}):"
    )
    rows = [
        ["lowest cosine of an image", f"{result.min_image_cosine:.6f}"],
        ["lowest cosine of a text", f"{result.min_text_cosine:.6f}"],
    ]
    if isinstance(result, GateResult):
        recalls = f"{result.torch_recall:.3f}, {result.recall:.3f}"
        rows += [
            ["mean recall, torch and exported", recalls],
            ["equal captions, greedy", f"{result.equal_greedy_captions:.1%}"],
            ["equal captions, beam search", f"{result.equal_beam_captions:.1%}"],
        ]
    else:
        rows += [["largest difference of a number", f"{result.max_difference:.1e}"]]
    console.table(["gate", "measured"], rows, right=["measured"])
    console.emit({"out": str(out), **asdict(result)})
