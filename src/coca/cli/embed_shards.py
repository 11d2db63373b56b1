"""Embedding by many processes, and on a cluster of Ray."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli import defaults
from coca.cli.console import Console, Json, to_try

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coca.workflows.collections.embed_shards import EmbeddedShard


def embed_shards(
    places: Annotated[
        list[str],
        typer.Argument(metavar="TARS", help="Tars, folders of tars, patterns, braces or URLs."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for a Parquet file each tar.")],
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--no-captions",
            help="Let the model write the captions of images that come without one.",
        ),
    ] = False,
    on_ray: Annotated[
        int,
        typer.Option(
            "--on-ray",
            min=0,
            help="Work by so many workers of Ray, of the cluster at RAY_ADDRESS or here.",
        ),
    ] = 0,
    model: defaults.Model = None,
    device: defaults.Device = None,
    as_json: Json = False,
) -> None:
    """Embed tars, by as many processes as wanted, into files for `coca index`.

    Start it once, or N times on any machines that share the folder, or under torchrun: each tar is
    done by one of them, and what is done is not done again.
    """
    console = Console.current(json=as_json)
    from coca.workflows.collections.embed_shards import embed_shards, find_shards

    shards = find_shards(places)
    results: Iterable[EmbeddedShard]
    if on_ray:
        from coca.workflows.collections.on_ray import embed_shards_on_ray

        results = embed_shards_on_ray(
            shards,
            defaults.model_name(model),
            out,
            captions=captions,
            workers=on_ray,
            device=device,
            address=os.environ.get("RAY_ADDRESS"),
            progress=console.progress,
        )
    else:
        # As torchrun tells them; a process started otherwise is the only one, or meets others.
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        results = embed_shards(
            shards,
            defaults.load_model(model, device or _own_device()),
            out,
            captions=captions,
            start=rank * len(shards) // size,
            progress=console.progress,
        )
    done = list(_told(console, results))
    made = [one for one in done if one.made]
    elsewhere = sum(one.out is None and not one.fault for one in done)
    bad = sum(bool(one.fault) for one in done)
    console.say(
        f"{len(made)} of {len(done)} tars embedded now, "
        f"{len(done) - len(made) - elsewhere - bad} found done"
        f"{f', {elsewhere} in the hands of other processes' if elsewhere else ''}"
        f"{f', {bad} bad' if bad else ''}: {sum(one.pictures for one in done):,} images are in "
        f"{out}"
    )
    console.say(f"put them into a collection: {to_try('index', str(out))}")
    console.emit({"out": str(out), "shards": [_entry(one) for one in done]})
    if bad:
        raise typer.Exit(1)


def _told(console: Console, results: "Iterable[EmbeddedShard]") -> "Iterable[EmbeddedShard]":
    for one in results:
        if one.fault:
            console.complain(one.fault)
        for picture in one.bad:
            console.complain(picture.detail)
        yield one


def _entry(one: "EmbeddedShard") -> dict[str, Any]:
    return {
        "shard": one.shard,
        "out": str(one.out) if one.out else None,
        "made": one.made,
        "pictures": one.pictures,
        "bad": [{"path": bad.path, "reason": bad.reason} for bad in one.bad],
        "error": one.fault or None,
    }


def _own_device() -> str | None:
    """The accelerator of this rank, where torchrun started several on a machine."""
    local = os.environ.get("LOCAL_RANK")
    if local is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return f"cuda:{int(local) % torch.cuda.device_count()}"
