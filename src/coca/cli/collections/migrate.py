"""Command `coca migrate`: copy a collection between two Milvus URIs."""

from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, resumable
from coca.cli.options import defaults
from coca.core.errors import ConfigError


def migrate(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Milvus URI: a .db path or a server.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Milvus URI: a .db path or a server.")
    ],
    collection: defaults.Collection = "pictures",
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
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Folder to keep the Parquet files in, as a backup; default: "
            "runs/migrate-COLLECTION, which is deleted at the end.",
        ),
    ] = None,
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
    """Copy a collection between two Milvus URIs, such as a .db folder and a server.

    The same command resumes an interrupted copy. No record is deleted from either side, and records
    of TARGET that differ are kept.
    """
    from coca.search.ingest.migrate import migrate as run
    from coca.search.milvus.collection import Collection
    from coca.search.milvus.lite import address_of, is_lite
    from coca.search.milvus.schema import CollectionSettings
    from coca.search.milvus.vector_index import VectorIndex

    name = to_collection or collection
    index = None
    if index_type is not None:
        index = VectorIndex.of(index_type, index_params or ())
        if is_lite(address_of(target)):
            # It would accept any index of an empty collection, and fail when that is opened again.
            raise ConfigError(
                f"--index is for a server, got {target}: migrate without it, then use "
                "`coca collection index`"
            )
    elif index_params:
        raise ConfigError("--index-param requires --index")
    with (
        Collection.open(source, collection, token=token) as old,
        Collection.open(
            target,
            name,
            token=to_token,
            embed_dim=old.info.embed_dim,
            fingerprint=old.info.fingerprint,
            model=old.info.model,
            create=True,
            settings=CollectionSettings(index=index),
        ) as new,
    ):
        files = folder or Path("runs") / f"migrate-{collection}"
        with resumable():
            report = run(
                old,
                new,
                files,
                keep_files=folder is not None,
                overwrite=overwrite,
                progress=console.progress,
            )
        console.say(
            f"all {report.records:,} records are in {name!r} of {target} "
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
                "collection": name,
            }
        )
