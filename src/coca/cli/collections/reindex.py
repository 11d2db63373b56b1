"""Command `coca reindex`: embed the images of a collection with another model."""

from typing import Annotated

import typer

from coca.cli.console import Console, resumable, shows_progress
from coca.cli.options import defaults
from coca.core.errors import ConfigError


@shows_progress
def reindex(
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The new model.")],
    collection: defaults.Collection = None,
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Replace the old vectors even if images are missing."),
    ] = False,
    dimensions: defaults.Dimensions = None,
    *,
    uri: defaults.Uri = None,
    execution: defaults.Run,
    token: defaults.Token = "",
    console: Console,
) -> None:
    """Embed a collection's images with another model, then replace the old vectors by the new ones.

    Searches use the old vectors until all images are embedded. Records that others write meanwhile
    are embedded as well. The same command resumes an interrupted run. An index of Milvus keeps its
    type and parameters.
    """
    uri = defaults.search_uri(uri)
    from coca.predict.short_vectors import shorten
    from coca.search import stores
    from coca.search.ingest.reindex import reindex as run
    from coca.workflows.collections.collection_model import lasting_name
    from coca.workflows.collections.image_resolver import ImageResolver

    # The collection is opened first, so that its errors are raised before a model is loaded.
    with stores.open_store(uri, token=token) as store:
        old = store.open(collection)
        collection = old.info.collection
        predictor = defaults.load_model(model, execution, to_index=True)
        if dimensions is not None:
            predictor = shorten(predictor, dimensions)
        own = predictor.fingerprint, predictor.embed_dim
        if (old.info.fingerprint, old.info.embed_dim) == own:
            raise ConfigError(f"{collection!r} contains the vectors of {model} already")
        settings = None
        if not stores.is_file(uri):
            from coca.search.milvus.collection import MilvusCollection
            from coca.search.milvus.schema import CollectionSettings

            assert isinstance(old, MilvusCollection)
            settings = CollectionSettings(index=old.index_type)
        with resumable():
            report = run(
                store,
                collection,
                predictor,
                model=lasting_name(predictor),
                open_image=ImageResolver(),
                skip_missing=skip_missing,
                batch_size=predictor.batch_size,
                settings=settings,
            )
    for _, sentence in report.lost:
        console.complain(sentence)
    total = report.embedded + report.kept
    console.say(
        f"{total:,} records are embedded by {model}"
        + (f", {report.caught_up:,} of them written meanwhile" if report.caught_up else "")
        + (f", {len(report.lost):,} cannot be read" if report.lost else "")
        + (
            f"; {collection!r} has the new vectors now"
            if report.is_promoted
            else f"; {collection!r} is unchanged: restore the images and run it again, or leave "
            "them out with --skip-missing"
        )
    )
    console.emit(
        {
            "collection": collection,
            "embedded": report.embedded,
            "kept": report.kept,
            "caught_up": report.caught_up,
            "promoted": report.is_promoted,
            "lost": [{"path": path, "error": error} for path, error in report.lost],
        }
    )
    if not report.is_promoted:
        raise typer.Exit(1)
