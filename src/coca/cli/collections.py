"""Commands on whole collections: `coca collection`, `coca migrate` and `coca reindex`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli import calibrate, defaults
from coca.cli.console import Console, Json
from coca.core.errors import ConfigError, SearchError

if TYPE_CHECKING:
    from coca.search.milvus.connection import Connection

app = typer.Typer(help="Manage Milvus collections: list, info, index, calibrate, alias and drop.")

_SIDES = {"image": "images", "text": "captions"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or alias of the collection.")]
IndexType = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="TYPE[:NAME=VALUE,...]",
        help="Index of the vectors, such as HNSW:M=32 or IVF_PQ:nlist=1024,m=64; default: "
        "HNSW or AUTOINDEX (migrate), or the index of the old collection (reindex).",
        show_default=False,
    ),
]


@app.command(name="list")
def list_(uri: defaults.Uri = None, token: defaults.Token = "", as_json: Json = False) -> None:
    """List the collections at a URI, with their record counts and aliases."""
    console = Console.current(json=as_json)
    from coca.search.milvus.catalog import list_all

    with _connected(defaults.search_uri(uri), token) as connection:
        found = list_all(connection)
    if found:
        rows = [
            [
                one.name,
                f"{'' if one.exact else 'about '}{one.count:,}",
                one.model or "(not made by coca)",
                ", ".join(one.aliases),
                one.own_name,
            ]
            for one in found
        ]
        header = ["name", "records", "model", "aliases", "own name"]
        console.table(header, rows, right=["records"])
    else:
        console.say("there are none")
    console.emit([asdict(one) for one in found])


@app.command()
def info(
    name: Name = "pictures",
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Print the records, model and index states of a collection."""
    console = Console.current(json=as_json)
    from coca.search.milvus.collection import Collection
    from coca.search.query.calibration import Calibration

    with Collection.open(defaults.search_uri(uri), name, token=token) as index:
        found = index.info
        try:
            calibration, state = Calibration.of(found, fingerprint=found.fingerprint), "none"
        except SearchError as error:
            calibration, state = None, str(error)
        if calibration is not None:
            state = (
                f"{100 * calibration.false_alarms:.0f} % false alarms, finds "
                f"{100 * calibration.found:.0f} %; made for {calibration.records:,} records"
            )
        captioned, states = index.count("has_text == true"), index.index_states()
        rows = [
            ["own name", index.own_name],
            ["records", f"{found.count:,}, {captioned:,} of them with a vector of the caption"],
            ["vectors", f"{found.embed_dim} numbers"],
            ["model", f"{found.model} ({found.fingerprint})"],
            ["Milvus", f"{index.capabilities.name} at {found.uri}"],
            [
                "full text",
                "ranked by Milvus" if index.supports_full_text else "ranked here, from captions",
            ],
            ["calibration", state],
            *(
                [f"index of {_SIDES[side]}", f"{state.index}, {state.state}"]
                for side, state in states.items()
            ),
        ]
        console.table(["what", "is"], rows)
        console.emit(
            {
                "collection": found.collection,
                "own_name": index.own_name,
                "uri": found.uri,
                "server": found.server_version,
                "count": found.count,
                "captioned": captioned,
                "embed_dim": found.embed_dim,
                "model": found.model,
                "fingerprint": found.fingerprint,
                "full_text": index.supports_full_text,
                "calibration": calibration and asdict(calibration),
                "indexes": {
                    side: {
                        "index": str(state.index),
                        "state": state.state,
                        "rows": state.rows,
                        "indexed_rows": state.indexed_rows,
                    }
                    for side, state in states.items()
                },
            }
        )


@app.command(name="index")
def index_(
    name: Name,
    index_type: Annotated[
        str, typer.Argument(metavar="TYPE[:NAME=VALUE,...]", help="Such as HNSW:M=32 or FLAT.")
    ],
    fallback: Annotated[
        bool | None,
        typer.Option(
            "--fallback/--no-fallback",
            help="Use the closest supported index if Milvus lacks TYPE; default: only on Milvus "
            "Lite.",
            show_default=False,
        ),
    ] = None,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Build another vector index; searches fail meanwhile, and no record is lost."""
    console = Console.current(json=as_json)
    from coca.search.index_params.vector_index import parse_index
    from coca.search.milvus.collection import Collection

    wanted = parse_index(index_type)
    with Collection.open(defaults.search_uri(uri), name, token=token) as index:
        built = index.change_index(wanted, fallback=fallback, progress=console.progress)
        console.say(f"collection {name!r} has the index {built}")
        console.emit({"collection": name, "index": str(built)})


@app.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Name of the alias.")],
    collection: Annotated[str, typer.Argument(metavar="NAME", help="Collection it refers to.")],
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Create or switch an alias of a collection, atomically.

    Clients that have the alias open keep using the previous collection.
    """
    console = Console.current(json=as_json)
    from coca.search.milvus.catalog import point_alias

    with _connected(defaults.search_uri(uri), token) as connection:
        before = point_alias(connection, name, collection)
    console.say(
        f"{name!r} is an alias of {collection!r}"
        + (f" now; before, of {before!r}" if before else "")
    )
    console.emit({"alias": name, "collection": collection, "before": before})


@app.command()
def drop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, alias or own name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Drop without confirmation.")] = False,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Drop a collection with all its records; image files are not deleted."""
    console = Console.current(json=as_json)
    from coca.search.milvus.catalog import drop_collection

    place = defaults.search_uri(uri)
    try:
        # On stderr, since `--json` reserves standard output for the document.
        sure = yes or typer.confirm(f"drop collection {name!r} of {place}?", err=True)
    except typer.Abort:
        raise ConfigError(f"refusing to drop {name!r} without confirmation; pass --yes") from None
    if not sure:
        raise ConfigError("nothing was dropped")
    with _connected(place, token) as connection:
        own_name = drop_collection(connection, name)
    console.say(f"collection {name!r} was dropped")
    console.emit({"dropped": name, "own_name": own_name})


app.command()(calibrate.calibrate)


@contextmanager
def _connected(place: str, token: str) -> Iterator["Connection"]:
    from coca.search.milvus.connection import Connection

    connection = Connection(place, token=token, create=False)
    try:
        yield connection
    finally:
        connection.close()


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
            "--to-collection",
            help="Name of the collection in TARGET; default: the same.",
            show_default=False,
        ),
    ] = None,
    index_type: IndexType = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            help="Folder for the Parquet files; default: runs/migrate-COLLECTION.",
            show_default=False,
        ),
    ] = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Keep the Parquet files as a backup.")
    ] = False,
    token: defaults.Token = "",
    to_token: Annotated[
        str, typer.Option("--to-token", help="As --token, for TARGET.", show_default=False)
    ] = "",
    as_json: Json = False,
) -> None:
    """Copy a collection between two Milvus URIs, such as a .db folder and a server.

    The same command resumes an interrupted copy. No record is deleted from either side.
    """
    console = Console.current(json=as_json)
    from coca.search.index_params.vector_index import parse_index
    from coca.search.ingest.migrate import migrate as run
    from coca.search.milvus.collection import Collection
    from coca.search.milvus.collection_config import CollectionSettings

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
            settings=CollectionSettings(index=index),
        ) as new,
    ):
        place = folder or Path("runs") / f"migrate-{collection}"
        report = run(old, new, place, keep_files=keep_files, progress=console.progress)
        console.say(
            f"all {report.records:,} records are in {name!r} of {target} "
            f"({report.written:,} written now); {source} is unchanged"
        )
        console.emit(
            {
                "records": report.records,
                "written": report.written,
                "uri": target,
                "collection": name,
            }
        )


def reindex(
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The new model.")],
    collection: defaults.Collection = "pictures",
    leave_out: Annotated[
        bool,
        typer.Option("--skip-missing", help="Switch the alias even if some images are unreadable."),
    ] = False,
    index_type: IndexType = None,
    uri: defaults.Uri = None,
    device: defaults.Device = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Embed a collection's images with another model, then switch its alias to the result.

    The old vectors are kept under their own name until `coca collection drop`. Switching back to
    the old model embeds only images added since, and deletes removed ones.
    """
    console = Console.current(json=as_json)
    place = defaults.search_uri(uri)
    from coca.search.index_params.vector_index import parse_index
    from coca.search.ingest.reindex import reindex as run
    from coca.search.milvus.catalog import check_switchable, point_alias
    from coca.search.milvus.collection import Collection
    from coca.search.milvus.collection_config import CollectionSettings
    from coca.search.records import same_model
    from coca.workflows.collections.collection_model import open_collection
    from coca.workflows.collections.image_resolver import ImageResolver

    index = parse_index(index_type) if index_type else None
    # The collection is opened first, so that its errors are raised before a model is loaded.
    with Collection.open(place, collection, token=token) as old:
        predictor = defaults.load_model(model, device)
        if same_model(old.info.fingerprint, predictor.fingerprint):
            raise ConfigError(f"{collection!r} holds the vectors of {model} already")
        with _connected(place, token) as connection:
            check_switchable(connection, collection)
        with open_collection(
            predictor,
            place,
            collection,
            token=token,
            create=True,
            staged=True,
            settings=CollectionSettings(index=index or old.index_type, fallback=True),
        ) as new:
            new_name = new.own_name
            report = run(
                old,
                predictor,
                new,
                open_image=ImageResolver(),
                batch_size=predictor.batch_size,
                progress=console.progress,
            )
    for _, sentence in report.lost:
        console.complain(sentence)
    done = not report.lost or leave_out
    before = ""
    if done:
        with _connected(place, token) as connection:
            before = point_alias(connection, collection, new_name)
    total = report.embedded + report.kept
    console.say(
        f"{total:,} images, embedded by {model}, are in {new_name!r}"
        + (f", {report.removed:,} missing ones were removed" if report.removed else "")
        + (f", {len(report.lost):,} cannot be read" if report.lost else "")
        + (
            f"; {collection!r} is now its alias, and the old vectors are in {before!r}"
            if done
            else f"; {collection!r} is unchanged: restore the images and run it again, or "
            "switch without them by --skip-missing"
        )
    )
    console.emit(
        {
            "collection": new_name,
            "embedded": report.embedded,
            "kept": report.kept,
            "updated": report.updated,
            "removed": report.removed,
            "before": before,
            "lost": [{"path": path, "error": error} for path, error in report.lost],
        }
    )
    if not done:
        raise typer.Exit(1)
