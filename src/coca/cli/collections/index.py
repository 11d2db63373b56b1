"""Command `coca index`: embed images of folders, videos, tars and manifests into a collection."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, Json, to_try
from coca.cli.options import defaults
from coca.cli.options.option_groups import Group, grouped
from coca.cli.options.search_options import from_here
from coca.core.errors import ConfigError
from coca.search.vector_encoding import VectorEncoding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coca.search.ingest.sources import AnySource
    from coca.workflows.collections.index import IndexResult

_SHOWN_COPIES = 20
_FRAME_INTERVAL_S, _MAX_BAD = 5.0, 0.1
"""Defaults of two options; another value means that the option was given."""


@grouped
def index(
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, images, videos, WebDataset tars (also patterns, braces, URLs), "
            "manifests (.jsonl, .csv, .parquet), zips with images and a table; or "
            "the output folder of `coca embed-shards`.",
        ),
    ],
    uri: defaults.Uri = None,
    collection: defaults.Collection = "pictures",
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--no-captions",
            help="Generate captions for images that have none.",
        ),
    ] = True,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete the records of files that no longer exist in these sources."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="With --prune: prune missing and empty folders as well. Without --yes they are "
            "assumed to be unmounted drives.",
        ),
    ] = False,
    frame_interval: Annotated[
        float,
        typer.Option(
            "--frame-interval",
            min=0,
            help="Interval between the frames of a video, in seconds; 0 skips videos.",
        ),
    ] = _FRAME_INTERVAL_S,
    read_from: Annotated[
        list[str] | None,
        typer.Option(
            "--read-from",
            help="Folder or URL prefix that manifests may reference besides local files and public "
            "addresses, such as http://localhost:8000/; may be repeated.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Keep running and index new, changed and deleted files of the folders."
        ),
    ] = False,
    max_bad: Annotated[
        float,
        typer.Option(
            "--max-bad",
            min=0,
            max=1,
            help="Stop if more than this fraction of images is unreadable, 0 to 1.",
        ),
    ] = _MAX_BAD,
    bad_list: Annotated[
        Path | None,
        typer.Option("--bad-list", help="File to list unreadable images in.", show_default=False),
    ] = None,
    *,
    encoding: Annotated[VectorEncoding, Group(panel="Vectors of a new collection")],
    model: defaults.Model = None,
    device: defaults.Device = None,
    runtime: defaults.Runtime = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Index images: embed new and changed images, and upsert them into a Milvus collection.

    NAME.txt next to an image contains its captions, one a line; NAME.json captions and metadata.
    """
    console = Console.current(json=as_json)
    if yes and (watch or not prune):
        raise ConfigError("--yes needs --prune, and excludes --watch")
    index_uri = defaults.index_uri(uri)
    where = _where(uri, collection)
    from coca.workflows.collections.image_sources import resolve_uris, vectors_files

    # Invalid sources are reported before a model is loaded.
    resolved = resolve_uris(uris, allow_missing=prune and yes)
    if files := vectors_files(resolved):
        from coca.workflows.collections.embed_shards import index_vectors

        given = {
            "--watch": watch,
            "--prune": prune,
            "--no-captions": not captions,
            "--frame-interval": frame_interval != _FRAME_INTERVAL_S,
            "--max-bad": max_bad != _MAX_BAD,
            "--bad-list": bad_list is not None,
            "--read-from": bool(read_from),
        }
        if idle := [name for name, is_given in given.items() if is_given]:
            raise ConfigError(
                f"{', '.join(idle)} apply to images, and these are vectors: leave them out"
            )
        filled = index_vectors(
            files,
            uri=index_uri,
            collection=collection,
            token=token,
            encoding=encoding,
            progress=console.progress,
        )
        _report(console, filled, where, {})
        return
    from coca.search.ingest.snapshot import PathCache
    from coca.search.milvus.catalog import check_fillable
    from coca.workflows.collections.collection_model import fitted
    from coca.workflows.collections.image_sources import (
        UnreadableFile,
        check_filled,
        open_sources,
    )
    from coca.workflows.collections.index import IndexSettings, index_sources
    from coca.workflows.collections.skipped_files import warn_of_skipped
    from coca.workflows.collections.watch import watch_folders, watched_folders

    folders = watched_folders(resolved) if watch else []
    images = () if watch else resolved
    sources = open_sources(images, frame_interval_s=frame_interval, read_from=read_from or ())
    if not (watch or (prune and yes)):
        # An empty source is an error, unless it is watched or its records are to be pruned.
        check_filled(resolved, sources, prune=prune)
    skipped = warn_of_skipped(resolved)
    joined = check_fillable(index_uri, collection, token=token)
    named = defaults.model_to_fill(model, joined, runtime)
    loaded = defaults.load_collection_model(named, device, runtime)
    predictor = fitted(loaded, joined)
    settings: IndexSettings = {
        "collection": collection,
        "token": token,
        "encoding": encoding,
        "captions": captions,
        "prune": prune or watch,
        "prune_empty": prune and yes,
        "path_cache": PathCache() if watch else None,
        "bad_list": bad_list,
        "max_bad_fraction": max_bad,
    }

    def run(sources: "Sequence[AnySource]") -> "IndexResult":
        return index_sources(
            sources, predictor, uri=index_uri, progress=console.progress, **settings
        )

    if watch:
        for result in watch_folders(folders, run, frame_interval_s=frame_interval):
            _report(console, result, where, skipped)
            console.note("watching; Ctrl-C ends it")
        return
    result = run(sources)
    _report(console, result, where, skipped)
    report = result.report
    nothing_used = report.bad and not report.good and not report.removed
    if nothing_used or any(isinstance(source, UnreadableFile) for source in sources):
        raise typer.Exit(1)


def _report(
    console: Console, result: "IndexResult", where: list[str], skipped: "Mapping[str, int]"
) -> None:
    report, filled = result.report, result.collection
    bad_ones = [
        # Errors of images read from bytes do not contain the path.
        (bad, bad.detail if bad.path in bad.detail else f"{bad.path}: {bad.detail}")
        for bad in report.bad
    ]
    for _, sentence in bad_ones:
        console.complain(sentence)
    counts = {
        one.name: count
        for one in dataclasses.fields(report)
        if isinstance(count := getattr(report, one.name), int)
    }
    for copy in report.copies[:_SHOWN_COPIES]:
        console.say(f"{from_here(copy.path)} is a copy of {from_here(copy.of)}")
    if (more := len(report.copies) - _SHOWN_COPIES) > 0:
        console.say(f"{more:,} more copies: --json and `coca duplicates` list all")
    console.say(
        f"{', '.join(f'{count} {what}' for what, count in counts.items() if count) or 'nothing'}"
        f"{f', {len(report.bad)} bad' if report.bad else ''}: "
        f"{filled.count} images are in collection {filled.collection!r} of {filled.uri}"
    )
    if filled.count:
        console.say(f"search them: {to_try('search', 'red car', *where)}")
    console.emit(
        {
            "uri": filled.uri,
            "collection": filled.collection,
            "count": filled.count,
            "fingerprint": filled.fingerprint,
            **counts,
            "skipped": skipped,
            "copies": [dataclasses.asdict(copy) for copy in report.copies],
            "bad": [
                {"path": bad.path, "reason": bad.reason, "error": sentence}
                for bad, sentence in bad_ones
            ],
        }
    )


def _where(uri: str | None, collection: str) -> list[str]:
    """Return the options with which `coca search` opens the same collection."""
    named = ["--uri", uri] if uri else []
    return named if collection == "pictures" else [*named, "--collection", collection]
