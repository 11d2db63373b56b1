"""Command `coca reindex`: embed the images of a collection with another model."""

from typing import Annotated

import typer

from coca.cli.console import Console, resumable
from coca.cli.options import defaults
from coca.core.errors import ConfigError


def reindex(
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The new model.")],
    collection: defaults.Collection = "pictures",
    leave_out: Annotated[
        bool,
        typer.Option("--skip-missing", help="Switch the alias even if some images are unreadable."),
    ] = False,
    dimensions: defaults.Dimensions = None,
    *,
    uri: defaults.Uri = None,
    execution: defaults.Run,
    token: defaults.Token = "",
    console: Console,
) -> None:
    """Embed a collection's images with another model, then switch its alias to the result.

    The index has the type and parameters of the old one.

    The old vectors are kept under their own name until `coca collection drop`. Switching back to
    the old model embeds only images added since, and deletes removed ones. Records that others
    write meanwhile are copied as well; after the switch, their writes through the name fail.
    """
    uri = defaults.search_uri(uri)
    from coca.runtime.short_vectors import shorten
    from coca.search.ingest.reindex import ReindexReport
    from coca.search.ingest.reindex import reindex as run
    from coca.search.milvus.catalog import check_switchable, point_alias
    from coca.search.milvus.collection import Collection
    from coca.search.milvus.connection import Connection
    from coca.search.milvus.schema import CollectionSettings
    from coca.workflows.collections.collection_model import open_collection
    from coca.workflows.collections.image_resolver import ImageResolver

    # The collection is opened first, so that its errors are raised before a model is loaded.
    with Collection.open(uri, collection, token=token) as old:
        predictor = defaults.load_model(model, execution)
        if old.info.fingerprint == predictor.fingerprint:
            raise ConfigError(f"{collection!r} contains the vectors of {model} already")
        if dimensions is not None:
            predictor = shorten(predictor, dimensions)
        with Connection(uri, token=token, create=False) as connection:
            check_switchable(connection, collection)
        with open_collection(
            predictor,
            uri,
            collection,
            token=token,
            create=True,
            staged=True,
            settings=CollectionSettings(index=old.index_type),
        ) as new:
            new_name = new.own_name
            before: list[str] = []

            def switch(report: ReindexReport) -> bool:
                if not report.lost or leave_out:
                    with Connection(uri, token=token, create=False) as connection:
                        before.append(point_alias(connection, collection, new_name))
                return bool(before)

            with resumable():
                report = run(
                    old,
                    predictor,
                    new,
                    open_image=ImageResolver(),
                    batch_size=predictor.batch_size,
                    switch=switch,
                    progress=console.progress,
                )
    for _, sentence in report.lost:
        console.complain(sentence)
    done = bool(before)
    total = report.embedded + report.kept
    console.say(
        f"{total:,} images, embedded by {model}, are in {new_name!r}"
        + (f", {report.caught_up:,} of them written meanwhile" if report.caught_up else "")
        + (f", {report.removed:,} missing ones were removed" if report.removed else "")
        + (f", {len(report.lost):,} cannot be read" if report.lost else "")
        + (
            f"; {collection!r} is now its alias, and the old vectors are in {before[0]!r}"
            if done
            else f"; {collection!r} is unchanged: restore the images and run it again, or "
            "switch without them with --skip-missing"
        )
    )
    console.emit(
        {
            "collection": new_name,
            "embedded": report.embedded,
            "kept": report.kept,
            "updated": report.updated,
            "removed": report.removed,
            "caught_up": report.caught_up,
            "before": before[0] if before else "",
            "lost": [{"path": path, "error": error} for path, error in report.lost],
        }
    )
    if not done:
        raise typer.Exit(1)
