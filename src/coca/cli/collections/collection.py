"""Commands `coca collection`: list, describe, show hidden records, export, check, drop."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.cli.console import Console, shows_progress
from coca.cli.options import defaults
from coca.cli.options.option_groups import Commands
from coca.core.errors import ConfigError, DataError, SearchError

if TYPE_CHECKING:
    from coca.search.milvus.collection import MilvusCollection
    from coca.search.records import CollectionInfo
    from coca.search.store import Collection


app = Commands(help="List, describe, export, index and drop collections, show hidden records.")

_SIDES = {"image": "images", "text": "captions"}

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Name of the collection. Default: the only one, else pictures.",
        show_default=False,
    ),
]
NeededName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]


@app.command(name="list")
def list_(uri: defaults.Uri = None, token: defaults.Token = "", *, console: Console) -> None:
    """List the collections at a URI, with their record counts."""
    from coca.search.stores import open_store

    with open_store(defaults.search_uri(uri), token=token) as store:
        found = store.list()
    if found:
        rows = [[info.collection, f"{info.count:,}", info.model] for info in found]
        console.table(["name", "records", "model"], rows, right=["records"])
    else:
        console.say("there are none")
    console.emit([_described(info) for info in found])


def _milvus(collection: "Collection") -> "MilvusCollection":
    from coca.search.milvus.collection import MilvusCollection

    assert isinstance(collection, MilvusCollection)
    return collection


def _described(info: "CollectionInfo") -> dict[str, Any]:
    fields = asdict(info)
    return {"name": fields.pop("collection"), **fields}


@app.command()
def info(
    name: Name = None,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """Print the records, model and store of a collection."""
    from coca.search.filters import IS_HIDDEN, where
    from coca.search.stores import is_file, open_collection

    uri = defaults.search_uri(uri)
    with open_collection(uri, name, token=token) as collection:
        found = collection.describe()
        captioned = collection.count(where("caption_source", "!=", ""))
        hidden = collection.count(IS_HIDDEN)
        states = {} if is_file(uri) else _milvus(collection).index_states()
    size_bytes = os.path.getsize(uri) if is_file(uri) else None
    rows = [
        ["records", f"{found.count:,}, {captioned:,} of them with a caption"],
        *([["hidden", f"{hidden:,} of them"]] if hidden else []),
        ["vectors", f"{found.embed_dim} numbers"],
        ["model", f"{found.model} ({found.fingerprint})"],
        ["store", f"{found.store} at {found.uri}"],
        *([["file", f"{size_bytes / 1e6:,.1f} MB"]] if size_bytes is not None else []),
        *(
            [f"index of {_SIDES[side]}", f"{state.index}, {state.state}"]
            for side, state in states.items()
        ),
    ]
    console.table(["what", "is"], rows)
    console.emit(
        {
            **_described(found),
            "captioned": captioned,
            "hidden": hidden,
            "size_bytes": size_bytes,
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
    name: Name = None,
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
    from coca.search.stores import open_collection

    with open_collection(defaults.search_uri(uri), name, token=token) as collection:
        name = collection.info.collection
        hidden = collection.ids(IS_HIDDEN)
        if unknown := set(ids or ()).difference(hidden):
            raise SearchError(f"{min(unknown)!r} is not a hidden record of collection {name!r}")
        found = sorted(set(ids or hidden))
        collection.update(
            found,
            lambda stored: {id: replace(record, hidden=False) for id, record in stored.items()},
        )
    console.say(f"searches find {len(found):,} records again")
    console.emit({"collection": name, "shown": found})


@app.command()
@shows_progress
def export(
    name: Name = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER|FILE",
            help="Folder of the XMP files, or a table: .csv, .jsonl or .parquet. Default: next to "
            "the images.",
        ),
    ] = None,
    generated: Annotated[
        bool, typer.Option("--generated", help="Write the captions of models as well.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files, and write none.")
    ] = False,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    console: Console,
) -> None:
    """Write captions that people gave, tags, names and favourites to XMP files or a table.

    `cat.jpg.xmp` is written next to `cat.jpg`, and read by `coca index`. Images are not changed;
    of an existing XMP file, only what people edited in the collection.
    """
    from coca.search.stores import open_collection
    from coca.workflows.collections.caption_export import export_captions

    with open_collection(defaults.search_uri(uri), name, token=token) as collection:
        name = collection.info.collection
        report = export_captions(collection, out, generated=generated, dry_run=dry_run)
    for path in report.written if dry_run else ():
        console.say(path)
    done = "would be written" if dry_run else "were written"
    console.say(f"{len(report.written):,} files {done}, {report.unchanged:,} images need none")
    if report.without_file:
        console.say(f"{report.without_file:,} images are not files: --out FILE.jsonl has them")
    console.emit({"collection": name, "dry_run": dry_run, **asdict(report)})
    if report.bad:
        lines = [f"{path}: {reason}" for path, reason in report.bad]
        raise DataError("\n".join(lines[:20]) + f"\n{len(lines):,} files were not written")


@app.command()
@shows_progress
def check(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Name of the collection. Default: all.", show_default=False
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make derived data again; records stay as they are.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Compare all records instead of a sample.")
    ] = False,
    uri: defaults.Uri = None,
    *,
    console: Console,
) -> None:
    """Check a SQLite file: its pages, and derived data against records; one line a finding."""
    from coca.search.sqlite.check import check_file
    from coca.search.stores import is_file

    uri = defaults.search_uri(uri)
    if not is_file(uri):
        raise ConfigError(f"{uri} is a Milvus server, which checks its data itself")
    report = check_file(uri, name, repair=repair, full=full)
    for line in report.findings:
        console.say(line)
    console.say(f"{report.blocks:,} of {report.of_blocks:,} blocks were compared")
    console.emit({"uri": uri, **asdict(report)})
    if report.left:
        raise SearchError(f"{report.left:,} findings of {uri} are not repaired")


@app.command()
def drop(
    name: NeededName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Drop without confirmation.")] = False,
    uri: defaults.Uri = None,
    token: defaults.Token = "",
    *,
    console: Console,
) -> None:
    """Drop a collection with all its records; image files are not deleted."""
    from coca.search.stores import open_store

    uri = defaults.search_uri(uri)
    try:
        # On stderr, since `--json` reserves standard output for the document.
        sure = yes or typer.confirm(f"drop collection {name!r} of {uri}?", err=True)
    except typer.Abort:
        raise ConfigError(f"refusing to drop {name!r} without confirmation; pass --yes") from None
    if not sure:
        raise ConfigError("nothing was dropped")
    with open_store(uri, token=token) as store:
        store.drop(name)
    console.say(f"collection {name!r} was dropped")
    console.emit({"dropped": name})
