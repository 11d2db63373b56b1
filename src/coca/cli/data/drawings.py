"""Commands `coca data emoji`, `emoji-sets`, `drawings` and `emoji-scenes`: write drawings."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, Json
from coca.cli.options.npm_packages import Packages, npm_packages

if TYPE_CHECKING:
    from coca.data.sample import Sample


class Form(StrEnum):
    """Output format of images."""

    SHARDS = "shards"
    FILES = "files"


class Vendor(StrEnum):
    """Vendor of an emoji set."""

    TWEMOJI = "twemoji"
    OPENMOJI = "openmoji"


def emoji(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    vendor: Annotated[
        Vendor, typer.Option("--vendor", help="Vendor of the emoji.")
    ] = Vendor.TWEMOJI,
    form: Annotated[
        Form, typer.Option("--form", help="WebDataset tars, or image files with JSON sidecars.")
    ] = Form.SHARDS,
    size_px: Annotated[
        int, typer.Option("--size-px", min=8, help="Side of rasterized vector drawings, pixels.")
    ] = 96,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Maximum number of images; 0: all.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write the emoji of a vendor with their names, from the pip packages of the extra `demo`."""
    console = Console.current(json=as_json)
    from itertools import islice

    from coca.core.files.atomic import atomic_folder
    from coca.data.sources.tar.shards import ShardWriter
    from coca.demo.emoji.concepts import emoji_samples

    samples = islice(emoji_samples(vendor.value, size_px=size_px), limit or None)
    count = 0
    with (
        console.progress(f"drawing {vendor.value}", limit or None) as bar,
        atomic_folder(out) as unfinished,
        ShardWriter(unfinished) as writer,
    ):
        for sample in samples:
            if form is Form.SHARDS:
                writer.write(sample)
            else:
                _write_files(unfinished, sample)
            count += 1
            bar.advance()
    console.say(f"{count} images of {vendor.value} are in {out}, as {form.value}")
    console.emit({"out": str(out), "samples": count, "form": form.value})


def emoji_sets(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    packages: Packages = None,
    size_px: Annotated[
        int, typer.Option("--size-px", min=8, help="Side of the images, pixels.")
    ] = 128,
    held_out: Annotated[
        int, typer.Option("--held-out", min=0, help="Number of concepts used for tests only.")
    ] = 200,
    as_json: Json = False,
) -> None:
    """Write the emoji of four vendors, split for training and tests: the data set of `nano`.

    The drawings come from npm packages; sets.json in OUT lists their licences.
    """
    console = Console.current(json=as_json)
    from coca.demo.emoji.packages import install_packages
    from coca.demo.emoji.sets import pack_sets

    with npm_packages(packages, install_packages, console) as folder:
        packed = pack_sets(
            out, folder, size_px=size_px, held_out=held_out, progress=console.progress
        )
    for part, count in sorted(packed.samples.items()):
        console.say(f"{part + ':':<22}{count:>6,} images")
    console.say(
        f"{packed.concepts:,} concepts, of which {packed.shared:,} are shared by all and "
        f"{packed.held_out} held out, are in {out}"
    )
    console.emit(
        {
            "out": str(out),
            "samples": dict(packed.samples),
            "concepts": packed.concepts,
            "shared": packed.shared,
            "held_out": packed.held_out,
        }
    )


def drawings(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    packages: Packages = None,
    clipart: Annotated[
        Path | None,
        typer.Option(
            "--clipart",
            help="SVG folder of the Open Clip Art Library, /usr/share/openclipart/svg of Debian's "
            "package openclipart-svg; default: no clip art.",
            show_default=False,
        ),
    ] = None,
    size_px: Annotated[
        int, typer.Option("--size-px", min=8, help="Side of the images, pixels.")
    ] = 224,
    as_json: Json = False,
) -> None:
    """Write colour icons and clip art with their names, as training data next to `emoji-sets`.

    The icons come from npm packages; sets.json in OUT lists all licences.
    """
    console = Console.current(json=as_json)
    from coca.demo.drawings.pack import install_drawings, pack_drawings

    with npm_packages(packages, install_drawings, console) as folder:
        packed = pack_drawings(
            out, folder, clipart=clipart, size_px=size_px, progress=console.progress
        )
    for name, count in packed.samples.items():
        console.say(f"{name + ':':<22}{count:>6,} images")
    console.say(f"{sum(packed.samples.values()):,} images are in {out}")
    console.emit({"out": str(out), "samples": dict(packed.samples)})


def emoji_scenes(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    vendor: Annotated[
        Vendor, typer.Option("--vendor", help="Vendor of the emoji.")
    ] = Vendor.TWEMOJI,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of scenes.")] = 1000,
    size_px: Annotated[
        int, typer.Option("--size-px", min=32, help="Side of a scene, pixels.")
    ] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the scenes.")] = 0,
    as_json: Json = False,
) -> None:
    """Compose scenes of emoji with bounding boxes in COCO format, for `coca finetune` and tests.

    Needs the extra `demo`.
    """
    console = Console.current(json=as_json)
    from coca.demo.emoji.scenes import write_scenes

    objects = write_scenes(
        out,
        vendor=vendor.value,
        count=count,
        size_px=size_px,
        seed=seed,
        progress=console.progress,
    )
    console.say(f"{count:,} scenes with {objects:,} objects of {vendor.value} are in {out}")
    console.emit({"out": str(out), "scenes": count, "objects": objects})


def _write_files(folder: Path, sample: "Sample") -> None:
    import json

    path = folder / f"{sample.key.split('/')[-1]}.png"
    path.write_bytes(sample.image)
    words = {"captions": list(sample.captions), **sample.metadata}
    path.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")
