"""Commands `coca finetune-detection`, and `coca detect`: print and draw boxes of objects."""

from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options import defaults, images
from coca.cli.options.recipes import Settings
from coca.cli.training.train import RecipeOverrides, finetune_recipe

if TYPE_CHECKING:
    from coca.experimental.detection.detecting import Detection


@shows_progress
def finetune_detection(settings: RecipeOverrides, console: Console) -> None:
    """Train an object detector on a model's image encoder, and evaluate it.

    Resuming and torchrun work as with `coca pretrain`.
    """
    from coca.experimental.detection import finetuning

    given = Settings.of(settings)
    finetune_recipe(console, given, finetuning.DetectionConfig, finetuning.finetune_detection)


@shows_progress
def detect(
    files: images.Files,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Folder or run of `coca finetune-detection`."),
    ] = "runs/emoji-detection",
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, max=1, help="Minimum score of a detection, 0 to 1."),
    ] = 0.3,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the images with their boxes drawn; default: none are drawn.",
        ),
    ] = None,
    *,
    execution: defaults.RunDevice,
    console: Console,
) -> None:
    """Detect objects in images: a bounding box in pixels, a label and a score for each.

    `coca finetune-detection` trains a detector.
    """
    paths = images.find(files)
    from coca.experimental.detection.detecting import drawn, load_detector

    detector = load_detector(model, device=execution.device)
    outcomes = images.work_through(
        paths,
        lambda batch: detector.detect(batch, threshold=threshold),
        batch_size=detector.predictor.batch_size,
        title="finding objects",
    )
    drawings = _names(out, paths) if out is not None else {}
    for path, found in zip(paths, outcomes, strict=True):
        if path in drawings and not isinstance(found, images.Bad):
            drawings[path].parent.mkdir(parents=True, exist_ok=True)
            drawn(path, found).save(drawings[path])
    if drawings:
        console.say(f"images with boxes are in {out}")
    images.print_outcomes(
        console,
        paths,
        outcomes,
        columns=["object", "score", "left", "top", "right", "bottom", "path"],
        rows=lambda path, found: [_row(one, path) for one in found] or [["-"] * 6 + [path]],
        entry=lambda found: {
            "objects": [
                {"label": one.label, "score": one.score, "box": list(one.box)} for one in found
            ]
        },
        right=["score", "left", "top", "right", "bottom"],
    )


def _row(one: "Detection", path: str) -> list[str]:
    return [one.label, f"{one.score:.0%}", *(f"{edge:.0f}" for edge in one.box), path]


def _names(folder: Path, paths: list[str]) -> dict[str, Path]:
    """Return the output path of each image; equal names are numbered."""
    names: dict[str, Path] = {}
    taken: set[str] = set()
    for path in paths:
        stem = Path(path).stem
        numbered = (f"{stem}-{number}" for number in count(2))
        name = next(one for one in chain([stem], numbered) if one not in taken)
        taken.add(name)
        names[path] = folder / f"{name}.png"
    return names
