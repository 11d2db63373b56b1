"""Commands `coca collection`: list, describe, show hidden records, index, calibrate, drop."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from coca.cli.console import Console
from coca.cli.options import defaults
from coca.cli.options.option_groups import Commands, Group
from coca.core.errors import ConfigError, SearchError
from coca.search.search_options import CalibrationConfig


def calibrate(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name or alias of the collection.")
    ] = "pictures",
    *,
    config: Annotated[CalibrationConfig, Group(panel="Calibration", only=("false_alarms",))],
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            metavar="FILE",
            help="YAML or JSON file that maps each query to the ids or paths of its correct "
            "images, and a query that matches nothing to an empty list. Default: texts that few "
            "collections have an image of.",
        ),
    ] = None,
    uri: defaults.Uri = None,
    model: defaults.Model = None,
    execution: defaults.Run,
    token: defaults.Token = "",
    console: Console,
) -> None:
    """Calibrate a collection: choose the limit from which a hit matches a text.

    `coca index` does so for a collection of 32 images or more. Calibrate it again for another rate
    of false alarms, or by queries of your own.
    """
    uri = defaults.search_uri(uri)
    from coca.search.milvus.collection import Collection
    from coca.workflows.collections.calibrate import calibrate as run
    from coca.workflows.collections.calibrate import read_answers
    from coca.workflows.collections.collection_model import model_of

    answers = None if queries is None else read_answers(queries)
    with Collection.open(uri, name, token=token) as collection:
        made = run(
            collection,
            defaults.load_model(
                model or model_of(collection.info),
                execution,
                info=collection.info,
            ),
            config,
            answers=answers,
            progress=console.progress,
        )
    found = "" if made.found is None else f"{made.found:.1%} of {made.matching:,}"
    console.table(
        ["what", "is"],
        [
            *([source, f"{count:,}"] for source, count in made.other.items()),
            ["limit", f"match score {made.limit:.3f}"],
            ["false alarms", f"at most {made.false_alarms:.1%} of texts without a match"],
            *([["found", f"{found} texts with a known image"]] if found else []),
        ],
    )
    console.emit({"collection": name, "calibration": made.summary()})


app = Commands(
    help="List, describe, index, calibrate, alias and drop collections, and show hidden records."
)

_SIDES = {"image": "images", "text": "captions"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or alias of the collection.")]


@app.command(name="list")
def list_(uri: defaults.Uri = None, token: defaults.Token = "", *, console: Console) -> None:
    """List the collections at a URI, with their record counts and aliases."""
    from coca.search.milvus.catalog import list_all
    from coca.search.milvus.connection import Connection

    with Connection(defaults.search_uri(uri), token=token, create=False) as connection:
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
    *,
    console: Console,
) -> None:
    """Print the records, model and index states of a collection."""
    from coca.search.filters import IS_HIDDEN
    from coca.search.milvus.collection import Collection
    from coca.search.query.match import Calibration

    with Collection.open(defaults.search_uri(uri), name, token=token) as collection:
        found = collection.info
        try:
            calibration, state = Calibration.of(found, fingerprint=found.fingerprint), "none"
        except SearchError as error:
            calibration, state = None, str(error)
        if calibration is not None:
            state = (
                f"{100 * calibration.false_alarms:.0f} % false alarms; made for "
                f"{calibration.records:,} records"
            )
        captioned, hidden = collection.count("has_text == true"), collection.count(IS_HIDDEN)
        states = collection.index_states()
        rows = [
            ["own name", collection.own_name],
            ["records", f"{found.count:,}, {captioned:,} of them with a vector of the caption"],
            *([["hidden", f"{hidden:,} of them"]] if hidden else []),
            ["vectors", f"{found.embed_dim} numbers"],
            ["model", f"{found.model} ({found.fingerprint})"],
            ["Milvus", f"{collection.capabilities.name} at {found.uri}"],
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
                "own_name": collection.own_name,
                "uri": found.uri,
                "server": found.server_version,
                "count": found.count,
                "captioned": captioned,
                "hidden": hidden,
                "embed_dim": found.embed_dim,
                "model": found.model,
                "fingerprint": found.fingerprint,
                "calibration": calibration and calibration.summary(),
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


@app.command()
def unhide(
    name: Name = "pictures",
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Hidden records. Default: all.")
    ] = None,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """Show hidden records again, so that searches find them."""
    from coca.search.filters import IS_HIDDEN
    from coca.search.milvus.collection import Collection
    from coca.search.records import batches, shown

    with Collection.open(defaults.search_uri(uri), name, token=token) as collection:
        hidden = sorted(collection.ids(IS_HIDDEN))
        if unknown := [id for id in ids or () if id not in hidden]:
            raise SearchError(f"{unknown[0]!r} is not a hidden record of collection {name!r}")
        found = sorted(set(ids or hidden))
        for some in batches(found, 1_000):
            records = collection.get(some).values()
            collection.upsert(replace(one, metadata=shown(one.metadata)) for one in records)
    console.say(f"searches find {len(found):,} records again")
    console.emit({"collection": name, "shown": found})


@app.command(name="index")
def index_(
    name: Name,
    index_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Milvus index type, such as HNSW or FLAT.")
    ],
    index_params: defaults.IndexParams = None,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """Build another vector index; searches fail meanwhile, and no record is lost.

    Milvus checks type and parameters; docs/milvus.md says which to choose.
    """
    from coca.search.milvus.collection import Collection
    from coca.search.milvus.vector_index import VectorIndex

    wanted = VectorIndex.of(index_type, index_params or ())
    with Collection.open(defaults.search_uri(uri), name, token=token) as collection:
        collection.change_index(wanted, progress=console.progress)
        console.say(f"collection {name!r} has the index {wanted}")
        console.emit({"collection": name, "index": str(wanted)})


@app.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Name of the alias.")],
    collection: Annotated[str, typer.Argument(metavar="NAME", help="Collection it refers to.")],
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """Create or switch an alias of a collection, atomically.

    Clients that have the alias open still read the previous collection; their writes fail.
    """
    from coca.search.milvus.catalog import point_alias
    from coca.search.milvus.connection import Connection

    with Connection(defaults.search_uri(uri), token=token, create=False) as connection:
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
    *,
    console: Console,
) -> None:
    """Drop a collection with all its records; image files are not deleted."""
    from coca.search.milvus.catalog import drop_collection
    from coca.search.milvus.connection import Connection

    uri = defaults.search_uri(uri)
    try:
        # On stderr, since `--json` reserves standard output for the document.
        sure = yes or typer.confirm(f"drop collection {name!r} of {uri}?", err=True)
    except typer.Abort:
        raise ConfigError(f"refusing to drop {name!r} without confirmation; pass --yes") from None
    if not sure:
        raise ConfigError("nothing was dropped")
    with Connection(uri, token=token, create=False) as connection:
        own_name = drop_collection(connection, name)
    console.say(f"collection {name!r} was dropped")
    console.emit({"dropped": name, "own_name": own_name})


app.command()(calibrate)
