"""Pictures out of a collection: by words, by image and by filter."""

from enum import StrEnum
from typing import Annotated

import typer

from coca.cli.console import Console, Json
from coca.cli.search_options import Among, Limit, Place, grouped, tell_hits
from coca.core.errors import ConfigError

_EVEN = 0.5
"""Weight of words that count as much as vectors."""


class On(StrEnum):
    """Which vectors of a collection a query is compared with."""

    image = "image"
    text = "text"


class Field(StrEnum):
    """By which field of the records results are grouped."""

    album = "album"


class Method(StrEnum):
    """How two rankings become one."""

    rrf = "rrf"
    scores = "scores"


@grouped
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
    *,
    among: Among,
    k: Limit = 10,
    offset: Annotated[
        int, typer.Option("--offset", min=0, help="How many of the nearest to leave out.")
    ] = 0,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score", min=-1, max=1, help="Least cosine of a result.", show_default=False
        ),
    ] = None,
    on: Annotated[
        On, typer.Option("--on", help="What to compare with: images, or their captions.")
    ] = On.image,
    group_by: Annotated[
        Field | None,
        typer.Option(
            "--group-by", help="Only the best of each album or video.", show_default=False
        ),
    ] = None,
    hybrid: Annotated[
        bool,
        typer.Option("--hybrid", help="Rank by the words of captions (BM25) as well, and join."),
    ] = False,
    fusion: Annotated[
        Method, typer.Option("--fusion", help="With --hybrid: join by places (rrf) or by scores.")
    ] = Method.rrf,
    words: Annotated[
        float,
        typer.Option(
            "--text-weight", min=0, max=1, help="With --hybrid: weight of the ranking by words."
        ),
    ] = _EVEN,
    rerank: Annotated[
        int,
        typer.Option(
            "--rerank",
            min=0,
            metavar="K",
            help="Sort the first K by the rank score: logit scale x cosine + log likelihood of "
            "the text, given the image.",
        ),
    ] = 0,
    resident: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Read all vectors into memory and compare with each: exact, also behind filters.",
        ),
    ] = False,
    place: Place,
    as_json: Json = False,
) -> None:
    """Find images by words, by images, or by several of them together.

    Without --model, the model that filled the collection is used. Results are sorted by score, the
    cosine; with --hybrid the score is what the two rankings were joined by. With --rerank the first
    K are sorted by their rank score, which is shown as well.
    """
    console = Console.current(json=as_json)
    from coca.search.query.query_terms import parse_terms

    terms = parse_terms(text or [], image or [])
    if not hybrid and (fusion != Method.rrf or words != _EVEN):
        raise ConfigError(
            "--fusion and --text-weight say how --hybrid joins two rankings: add --hybrid"
        )
    from coca.search.query.fusion import Fusion
    from coca.search.query.in_memory import advice_on_size

    joined = Fusion(method=fusion.value, words=words) if hybrid else False
    with place.open(resident=resident, progress=console.progress) as engine:
        if not resident and (advice := advice_on_size(engine.index.info)):
            console.note(advice)
        hits = engine.search(
            terms=terms,
            k=k,
            filter=among.expression,
            offset=offset,
            min_score=min_score,
            on=on.value,
            group_by="album" if group_by else None,
            hybrid=joined,
            rerank=rerank,
        )
    tell_hits(console, hits, first=offset + 1)
