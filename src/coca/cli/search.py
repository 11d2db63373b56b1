"""Pictures into a collection, and out of it by words, by picture and by filter."""

import dataclasses
from typing import Annotated

import typer

from coca.cli import defaults
from coca.cli.console import Console, Json, to_try
from coca.search.terms import parse_terms


def index(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER", help="Folders, searched through, and single files."),
    ],
    uri: defaults.Uri = None,
    collection: defaults.Collection = "pictures",
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--no-captions",
            help="Let the model write the captions of pictures that come without one.",
        ),
    ] = True,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove records of files that are gone.")
    ] = False,
    model: defaults.Model = None,
    device: defaults.Device = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Make pictures searchable: embed what is new or changed, and write it to Milvus.

    A caption may lie beside a picture in NAME.txt, captions and metadata in NAME.json.
    """
    console = Console.current(json=as_json)
    place = defaults.index_uri(uri)
    predictor = defaults.load_model(model, device)
    from coca.workflows.search import index_folders

    result = index_folders(
        folders,
        predictor,
        uri=place,
        collection=collection,
        token=token,
        captions=captions,
        prune=prune,
        progress=console.progress,
    )
    report, filled = result.report, result.collection
    bad_ones = [
        # What was given as bytes does not know where they lay.
        (bad, bad.detail if bad.path in bad.detail else f"{bad.path}: {bad.detail}")
        for bad in report.bad
    ]
    for _, sentence in bad_ones:
        console.complain(sentence)
    counts = dataclasses.asdict(report)
    del counts["bad"]
    console.say(
        f"{', '.join(f'{count} {what}' for what, count in counts.items() if count) or 'nothing'}"
        f"{f', {len(report.bad)} bad' if report.bad else ''}: "
        f"{filled.count} pictures are in collection {filled.collection!r} of {filled.uri}"
    )
    if filled.count:
        console.say(f"search them: {to_try('search', 'red car', *_where(uri, collection))}")
    console.emit(
        {
            "uri": filled.uri,
            "collection": filled.collection,
            "count": filled.count,
            "fingerprint": filled.fingerprint,
            **counts,
            "bad": [
                {"path": bad.path, "reason": bad.reason, "error": sentence}
                for bad, sentence in bad_ones
            ],
        }
    )
    if report.bad and not any(counts.values()):
        raise typer.Exit(1)


def search(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT[:WEIGHT]",
            help="Words to search for, such as 'red car'; several texts may have weights, and "
            "'night:-0.3' leads away from the night.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            "-i",
            metavar="FILE[:WEIGHT]",
            help="Picture to search for; may be repeated.",
            show_default=False,
        ),
    ] = None,
    filter: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            help='Milvus expression, such as \'metadata["year"] > 2020 and caption like "%car%"\'.',
        ),
    ] = "",
    k: Annotated[int, typer.Option("-k", "--limit", min=1, help="Most results.")] = 10,
    offset: Annotated[
        int, typer.Option("--offset", min=0, help="How many of the nearest to leave out.")
    ] = 0,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score", min=-1, max=1, help="Least cosine of a result.", show_default=False
        ),
    ] = None,
    uri: defaults.Uri = None,
    collection: defaults.Collection = "pictures",
    model: defaults.Model = None,
    device: defaults.Device = None,
    token: defaults.Token = "",
    as_json: Json = False,
) -> None:
    """Find pictures by words, by pictures, or by several of them together.

    Without --model, the model that filled the collection is used. The score is the cosine.
    """
    console = Console.current(json=as_json)
    terms = parse_terms(text or [], image or [])
    place = defaults.search_uri(uri)
    from coca.workflows.search import open_search

    with open_search(
        place,
        collection=collection,
        token=token,
        model=model,
        fallback=lambda: defaults.model_name(None),
        device=device,
    ) as engine:
        hits = engine.search(terms=terms, k=k, filter=filter, offset=offset, min_score=min_score)
    rows = [
        [str(rank), f"{hit.score:.3f}", hit.caption, hit.path]
        for rank, hit in enumerate(hits, start=offset + 1)
    ]
    if rows:
        console.table(["rank", "score", "caption", "path"], rows, right=["rank", "score"])
    else:
        console.say("nothing was found")
    console.emit(
        [
            {
                "id": hit.id,
                "score": hit.score,
                "path": hit.path,
                "caption": hit.caption,
                "metadata": dict(hit.metadata),
            }
            for hit in hits
        ]
    )


def _where(uri: str | None, collection: str) -> list[str]:
    """The options that a search needs to look at the same place."""
    named = ["--uri", uri] if uri else []
    return named if collection == "pictures" else [*named, "--collection", collection]
