"""Command `coca index`: embed images of folders, videos, tars and manifests into a collection."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, shows_progress, to_try
from coca.cli.options import defaults
from coca.cli.options.option_groups import Group
from coca.cli.options.search_options import from_here
from coca.core.errors import ConfigError
from coca.workflows.collections.index_settings import IndexSettings

if TYPE_CHECKING:
    from coca.predict.predictor import Predictor
    from coca.search.records import CollectionInfo
    from coca.workflows.collections.index import IndexResult

_SHOWN_COPIES = _SHOWN_BAD = 20


@shows_progress
def index(
    uris: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, images, videos, WebDataset tars (also patterns, braces, URLs), "
            "manifests (.jsonl, .csv, .parquet), zips with images and a table; or "
            "a folder of Parquet files with vectors.",
        ),
    ],
    uri: defaults.Uri = None,
    collection: defaults.Collection = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Keep running and index new, changed and deleted files of the folders."
        ),
    ] = False,
    *,
    settings: Annotated[
        IndexSettings,
        Group(
            panel="Options",
            only={*IndexSettings.model_fields} - {"collection", "token"},
            short={"prune_empty": "-y"},
            names={
                "prune_empty": "yes",
                "frame_interval_s": "frame-interval",
                "max_bad_fraction": "max-bad",
            },
        ),
    ],
    model: defaults.Model = None,
    execution: defaults.Run,
    token: defaults.Token = "",
    console: Console,
) -> None:
    """Index images: embed new and changed images, and upsert them into a collection.

    NAME.txt next to an image contains its captions, one a line; NAME.json captions and metadata.
    """
    if settings.captions_from is not None and not settings.captions:
        raise ConfigError(f"--captions-from {settings.captions_from} excludes --no-captions")
    if settings.prune_empty and (watch or not settings.prune):
        raise ConfigError("--yes needs --prune, and excludes --watch")
    # Options with which `coca search` opens the same collection.
    where = ["--uri", uri] if uri else []
    where += [] if collection is None else ["--collection", collection]
    from coca.model.shipped import FINGERPRINTS
    from coca.search.records import check_same_model
    from coca.workflows.collections.index import index_images

    def choose(info: "CollectionInfo | None") -> "Callable[[], Predictor]":
        if info is not None and model is not None:
            # Another shipped model is refused without loading it.
            known = FINGERPRINTS.get(model, info.fingerprint)
            check_same_model(info, fingerprint=known, embed_dim=info.embed_dim)
        name = defaults.model_to_fill(model, info)
        return lambda: defaults.load_model(name, execution, to_index=not settings.captions)

    def report_run(result: "IndexResult") -> None:
        _report(console, result, uris, where)
        console.note("watching; Ctrl-C ends it")

    result = index_images(
        uris,
        choose,
        uri=defaults.index_uri(uri),
        watch=report_run if watch else None,
        **dict(settings.replace(collection=collection, token=token)),
    )
    if watch:
        return
    _report(console, result, uris, where)
    report = result.report
    nothing_used = report.bad and not report.good and not report.removed
    if nothing_used or result.unreadable:
        raise typer.Exit(1)


def _report(
    console: Console, result: "IndexResult", sources: Sequence[str], where: Sequence[str]
) -> None:
    report, info = result.report, result.collection
    bad_images = [
        # Errors of images read from bytes do not contain the path.
        (bad, bad.detail if bad.path in bad.detail else f"{bad.path}: {bad.detail}")
        for bad in report.bad
    ]
    for _, sentence in bad_images[:_SHOWN_BAD]:
        console.complain(sentence)
    if (more := len(bad_images) - _SHOWN_BAD) > 0:
        console.complain(f"{more:,} more are bad: --json and --bad-list FILE list all")
    counts = {
        field.name: count
        for field in dataclasses.fields(report)
        if isinstance(count := getattr(report, field.name), int)
    }
    for copy in report.copies[:_SHOWN_COPIES]:
        console.say(f"{from_here(copy.path)} is a copy of {from_here(copy.of)}")
    if (more := len(report.copies) - _SHOWN_COPIES) > 0:
        console.say(f"{more:,} more copies: --json and `coca duplicates` list all")
    console.say(
        f"{', '.join(f'{count} {what}' for what, count in counts.items() if count) or 'nothing'}"
        f"{f', {len(report.bad)} bad' if report.bad else ''}: "
        f"{info.count} images are in collection {info.collection!r} of {info.uri}"
    )
    if report.missing:
        console.say(
            f"to remove the {report.missing:,} images whose files are missing: "
            f"{to_try('index', *sources, *where, '--prune')}"
        )
    if info.count:
        console.say(f"search them: {to_try('search', 'red car', *where)}")
    console.emit(
        {
            "uri": info.uri,
            "collection": info.collection,
            "count": info.count,
            "fingerprint": info.fingerprint,
            **counts,
            "skipped": result.skipped,
            "copies": [dataclasses.asdict(copy) for copy in report.copies],
            "bad": [
                {"path": bad.path, "reason": bad.reason, "error": sentence}
                for bad, sentence in bad_images
            ],
        }
    )
