"""Command `coca migrate`: copy a collection between two Milvus URIs."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console, resumable
from coca.cli.options import defaults
from coca.cli.options.option_groups import Group
from coca.search.vector_encoding import VectorEncoding


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
    index_type: defaults.IndexType = None,
    *,
    encoding: Annotated[VectorEncoding, Group(panel="Vectors of a new TARGET; default: as SOURCE")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Folder for the Parquet files; default: runs/migrate-COLLECTION."
        ),
    ] = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Keep the Parquet files as a backup.")
    ] = False,
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
    from coca.search.index_params.vector_index import parse_index
    from coca.search.ingest.migrate import migrate as run
    from coca.search.ingest.vector_sample import sample_collection
    from coca.search.milvus.collection import Collection
    from coca.search.milvus.schema import CollectionSettings

    name = to_collection or collection
    index = parse_index(index_type) if index_type else None
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
            settings=CollectionSettings(
                index=index, encoding=encoding if encoding.changes else old.info.encoding
            ),
            basis=partial(sample_collection, old) if encoding.changes else old.codec,
        ) as new,
    ):
        files = folder or Path("runs") / f"migrate-{collection}"
        with resumable():
            report = run(
                old,
                new,
                files,
                keep_files=keep_files,
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
