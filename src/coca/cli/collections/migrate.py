"""Command `coca migrate`: copy a collection between two stores."""

from typing import Annotated

import typer

from coca.cli.console import Console, resumable, shows_progress
from coca.cli.options import defaults
from coca.core.errors import ConfigError


@shows_progress
def migrate(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Path of a SQLite file, or address of Milvus.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Path of a SQLite file, or address of Milvus.")
    ],
    collection: defaults.Collection = None,
    to_collection: Annotated[
        str | None,
        typer.Option(
            "--to-collection", help="Name of the collection in TARGET; default: the same."
        ),
    ] = None,
    *,
    index_type: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="TYPE",
            help="Milvus index type of a new collection on a server, such as IVF_SQ8; default: "
            "HNSW, or AUTOINDEX on Zilliz Cloud.",
        ),
    ] = None,
    index_params: defaults.IndexParams = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Overwrite records of TARGET that differ; default: keep them, as they may be "
            "newer.",
        ),
    ] = False,
    token: defaults.Token = "",
    to_token: Annotated[str, typer.Option("--to-token", help="As --token, for TARGET.")] = "",
    console: Console,
) -> None:
    """Copy a collection between two stores, such as a SQLite file and a Milvus server.

    The same command resumes an interrupted copy. No record is deleted from either side, and records
    of TARGET that differ are kept.
    """
    from coca.search import stores
    from coca.search.ingest.migrate import migrate as run

    settings = None
    if index_type is not None:
        if stores.is_file(target):
            raise ConfigError(
                f"--index is for a Milvus server, got {target}: SQLite searches exactly and has no "
                "index; leave it out"
            )
        from coca.search.milvus.schema import CollectionSettings
        from coca.search.milvus.vector_index import VectorIndex

        settings = CollectionSettings(index=VectorIndex.of(index_type, index_params or ()))
    elif index_params:
        raise ConfigError("--index-param requires --index")
    with (
        stores.open_collection(source, collection, token=token) as old,
        stores.open_collection(
            target,
            to_collection or old.info.collection,
            token=to_token,
            embed_dim=old.info.embed_dim,
            fingerprint=old.info.fingerprint,
            model=old.info.model,
            create=True,
            settings=settings,
        ) as new,
    ):
        with resumable():
            report = run(old, new, overwrite=overwrite)
        console.say(
            f"all {report.records:,} records are in {new.info.collection!r} of {target} "
            f"({report.written:,} written now); {source} is unchanged"
        )
        if report.kept:
            console.say(
                f"{report.kept:,} records differ in {target} and were kept there, as they may be "
                "newer: --overwrite replaces them"
            )
        console.emit(
            {
                "records": report.records,
                "written": report.written,
                "kept": report.kept,
                "uri": target,
                "collection": new.info.collection,
            }
        )
