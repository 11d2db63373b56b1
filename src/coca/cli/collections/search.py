"""Command `coca search`: search a collection by text, by image and by filter."""

import os
import shlex
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console, Json
from coca.cli.options import defaults
from coca.cli.options.option_groups import grouped
from coca.cli.options.search_options import CollectionOptions, FilterOptions, Limit, print_hits
from coca.core.errors import ConfigError

if TYPE_CHECKING:
    from coca.search.query.query_terms import Term


class On(StrEnum):
    """Vector field that is searched."""

    image = "image"
    text = "text"


class Field(StrEnum):
    """Record field by which results are grouped."""

    album = "album"


class Method(StrEnum):
    """Fusion method of hybrid search."""

    rrf = "rrf"
    scores = "scores"


@grouped
def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT[:WEIGHT]",
            help="Text query, such as red car, or an image file. Words without a weight are one "
            "text. Texts with weights are summed; a negative weight, such as 'red car' night:-0.3, "
            "avoids a concept.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT[:WEIGHT]",
            help="Text query with an optional weight, default 1; may be repeated for the sum of "
            "several.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            "-i",
            metavar="FILE[:WEIGHT]",
            help="Image query with an optional weight; may be repeated.",
            show_default=False,
        ),
    ] = None,
    *,
    among: FilterOptions,
    k: Limit = 10,
    offset: Annotated[
        int, typer.Option("--offset", min=0, help="Results to skip, for pagination.")
    ] = 0,
    min_score: Annotated[
        float | None,
        typer.Option(
            "--min-score",
            min=-1,
            max=1,
            help="Minimum cosine similarity of a result, -1 to 1; default: none.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        On,
        typer.Option("--on", help="Vector field to search: of the images, or of their captions."),
    ] = On.image,
    group_by: Annotated[
        Field | None,
        typer.Option(
            "--group-by",
            help="Return only the best result of each album or video.",
            show_default=False,
        ),
    ] = None,
    hybrid: Annotated[
        bool | None,
        typer.Option(
            "--hybrid/--no-hybrid",
            help="Fuse search by image with search by vectors and words (BM25) of the captions. "
            "Default: for text queries, with captions that people gave, not those of the model.",
            show_default=False,
        ),
    ] = None,
    fusion: Annotated[
        Method | None,
        typer.Option(
            "--fusion",
            help="With --hybrid: reciprocal rank fusion, or weighted scores. [default: scores]",
            show_default=False,
        ),
    ] = None,
    words: Annotated[
        float | None,
        typer.Option(
            "--text-weight",
            min=0,
            max=1,
            help="With --hybrid: weight of the captions, 0 to 1. [default: 0.75]",
            show_default=False,
        ),
    ] = None,
    rerank: Annotated[
        int,
        typer.Option(
            "--rerank",
            min=0,
            metavar="K",
            help="Rerank the top K by the rank score: logit scale x cosine + log likelihood of "
            "the text, given the image. 0: no reranking.",
        ),
    ] = 0,
    match: Annotated[
        bool,
        typer.Option(
            "--match/--no-match",
            help="Mark the first 32 results of a text query by their match probability, where the "
            "collection is calibrated (`coca collection calibrate`). This reads their images.",
        ),
    ] = True,
    in_memory: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Load all vectors into memory for exact (brute-force) search, also with filters.",
        ),
    ] = False,
    rescore_by: Annotated[
        str | None,
        typer.Option(
            "--rescore-by",
            metavar="URI",
            help="Milvus URI of the same collection with whole vectors, by which the first 100 "
            "results of smaller vectors are ranked again.",
            show_default=False,
        ),
    ] = None,
    target: CollectionOptions,
    runtime: defaults.Runtime = None,
    as_json: Json = False,
) -> None:
    """Search images by text, by image, or by a weighted sum of both.

    Without --model, the model that filled the collection embeds the query. Results are sorted by
    score, the cosine similarity. In hybrid search, "words" is the BM25 score of captions that share
    a word with the query, and results are sorted by image, caption and words together. With
    --rerank the top K are sorted by their rank score. On a calibrated collection, results of a text
    query have a match probability, and "no" where it is below the threshold.
    """
    console = Console.current(json=as_json)
    from coca.search.query.query_terms import parse_arguments

    terms = parse_arguments(query or [], text or [], image or [])
    if note := _reading(query or [], terms):
        console.note(note)
    if not hybrid and (fusion is not None or words is not None):
        raise ConfigError("--fusion and --text-weight are options of hybrid search: add --hybrid")
    from coca.search.query.fusion import Fusion
    from coca.search.query.in_memory import advice_on_size

    joined = Fusion(
        method=Fusion.method if fusion is None else fusion.value,
        text_weight=Fusion.text_weight if words is None else words,
    )
    with target.open(
        in_memory=in_memory, rescore_by=rescore_by, runtime=runtime, progress=console.progress
    ) as engine:
        if not in_memory and (advice := advice_on_size(engine.index.info)):
            console.note(advice)
        hits = engine.search(
            terms=terms,
            k=k,
            filter=among.expression,
            offset=offset,
            min_score=min_score,
            on=on.value,
            group_by="album" if group_by else None,
            hybrid=hybrid and joined,
            rerank=rerank,
            match=match,
        )
    print_hits(console, hits, first=offset + 1)


def _reading(words: Sequence[str], terms: Sequence["Term"]) -> str:
    """Describe how positional arguments were read, where another reading is possible; else ""."""
    if words and (len(terms) > 1 or terms[0].image):
        parts = [
            f"{'the image ' if term.image else ''}{term.image or term.text!r}"
            + (f" with weight {term.weight:g}" if term.weight != 1 else "")
            for term in terms
        ]
        return f"searching for {' and '.join(parts)}"
    if len(words) == 1 and os.path.isdir(words[0]):
        return f"searching for the text {words[0]!r}; to index the folder: coca index {words[0]}"
    if len(words) > 1 and any(" " in word for word in words):
        each = " ".join(f"--text {shlex.quote(word)}" for word in words)
        return f"searching for one text, {terms[0].text!r}; for the sum of several: {each}"
    return ""
