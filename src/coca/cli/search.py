"""Pictures out of a collection: by words, by picture and by filter."""

from typing import Annotated

import typer

from coca.cli import defaults
from coca.cli.console import Console, Json
from coca.search.terms import parse_terms


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
