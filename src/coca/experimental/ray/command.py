"""Command `coca embed-shards`: embed tars with several processes, or on a Ray cluster."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli.console import Console, resumable, shows_progress, to_try
from coca.cli.options import defaults

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coca.experimental.ray.embed_shards import EmbeddedShard


@shows_progress
def embed_shards(
    tars: Annotated[
        list[str],
        typer.Argument(metavar="TARS", help="Tars, folders of tars, patterns, braces or URLs."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for one Parquet file per tar.")],
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--no-captions",
            help="Generate captions for images that have none.",
        ),
    ] = False,
    on_ray: Annotated[
        int,
        typer.Option(
            "--on-ray",
            min=0,
            help="Number of Ray workers, on the cluster at RAY_ADDRESS or this machine; 0: no Ray.",
        ),
    ] = 0,
    model: defaults.Model = None,
    *,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Embed WebDataset tars into Parquet files for `coca index`, with any number of processes.

    Start it once, or N times on machines that share the folder, or under torchrun. Each tar is
    embedded by one process; finished tars are skipped.
    """
    from coca.experimental.ray.embed_shards import embed_shards, find_shards

    shards = find_shards(tars)
    results: Iterable[EmbeddedShard]
    if on_ray:
        from coca.experimental.ray.embed_shards import embed_shards_on_ray

        results = embed_shards_on_ray(
            shards,
            defaults.model_name(model),
            out,
            captions=captions,
            workers=on_ray,
            execution=execution,
            address=os.environ.get("RAY_ADDRESS"),
        )
    else:
        # Set by torchrun. Processes started otherwise begin at the first tar and skip claimed ones.
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        results = embed_shards(
            shards,
            defaults.load_model(model, execution.replace(device=execution.device or _own_device())),
            out,
            captions=captions,
            start=rank * len(shards) // size,
        )
    with resumable():
        done = list(_report_bad(console, results))
    made = [one for one in done if one.made]
    elsewhere = sum(one.out is None and not one.fault for one in done)
    bad = sum(bool(one.fault) for one in done)
    console.say(
        f"{len(made)} of {len(done)} tars embedded now, "
        f"{len(done) - len(made) - elsewhere - bad} found done"
        f"{f', {elsewhere} claimed by other processes' if elsewhere else ''}"
        f"{f', {bad} bad' if bad else ''}: {sum(one.images for one in done):,} images are in "
        f"{out}"
    )
    console.say(f"put them into a collection: {to_try('index', str(out))}")
    console.emit({"out": str(out), "shards": [_entry(one) for one in done]})
    if bad:
        raise typer.Exit(1)


def _report_bad(console: Console, results: "Iterable[EmbeddedShard]") -> "Iterable[EmbeddedShard]":
    for one in results:
        if one.fault:
            console.complain(one.fault)
        for image in one.bad:
            console.complain(image.detail)
        yield one


def _entry(one: "EmbeddedShard") -> dict[str, Any]:
    return {
        "shard": one.shard,
        "out": str(one.out) if one.out else None,
        "made": one.made,
        "images": one.images,
        "bad": [{"path": bad.path, "reason": bad.reason} for bad in one.bad],
        "error": one.fault or None,
    }


def _own_device() -> str | None:
    """Return the accelerator of this local rank under torchrun, else None."""
    local = os.environ.get("LOCAL_RANK")
    if local is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return f"cuda:{int(local) % torch.cuda.device_count()}"
