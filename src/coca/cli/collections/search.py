"""Command `coca search`: search a collection by text, by image and by filter."""

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from coca.cli.console import Console
from coca.cli.options import defaults
from coca.cli.options.option_groups import Group
from coca.cli.options.search_options import (
    FILTERS,
    CollectionOptions,
    FilterOptions,
    print_explanations,
    print_hits,
    print_newest,
)
from coca.core.errors import SearchError
from coca.search.search_options import QueryOptions, Ranking

if TYPE_CHECKING:
    from coca.search.query.query_terms import Term
    from coca.search.store import Collection


PANEL = "Search"


def search(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT[:WEIGHT]",
            help="Text query, such as red car, or an image file. Words without a weight are one "
            "text. Texts with weights are summed; a negative weight, such as 'red car' night:-0.3, "
            "avoids a concept.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT[:WEIGHT]",
            help="Text query with an optional weight, default 1; may be repeated for the sum of "
            "several.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            "-i",
            metavar="FILE[:WEIGHT]",
            help="Query by an image, with an optional weight; may be repeated.",
        ),
    ] = None,
    *,
    among: Annotated[FilterOptions, FILTERS],
    options: Annotated[
        QueryOptions,
        Group(
            panel=PANEL,
            short={"limit": "-k"},
            only=(
                *("limit", "offset", "min_score", "on", "group_by", "hybrid", "rerank"),
                *("likely", "sort"),
            ),
        ),
    ],
    ranking: Annotated[
        Ranking | None,
        Group(
            panel="Ranking by image, caption and words",
            only=("image_weight", "caption_weight", "words_weight", "text_weight", "captions"),
        ),
    ],
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Explain each hit: the parts of its score, words, labels."),
    ] = False,
    why: Annotated[
        str,
        typer.Option("--why", metavar="PHOTO", help="Explain the place of one image, path or id."),
    ] = "",
    target: CollectionOptions,
    execution: defaults.Run,
    console: Console,
) -> None:
    """Search images by text, by image, or by a weighted sum of both.

    Without --model, the model that filled the collection embeds the query. A text is compared with
    images, with their captions and with the words of captions: results are sorted by the sum of all
    three, and other queries by score, the cosine of query and image. "caption" is the cosine of
    query and caption, and "words" the BM25 score of the words that they share. With
    --rerank the top K are sorted by their rank score. What follows "without", "no", "not" or "-"
    in a text is unwanted. With filters alone, all images that they keep are listed, newest first.
    """
    if not (query or text or image or why) and among != FilterOptions():
        from coca.search.query.listing import newest

        with target.open_collection() as collection:
            hits = newest(
                collection,
                among.expression(collection),
                limit=options.limit,
                offset=options.offset,
            )
        print_newest(console, hits)
        return
    from coca.cli.options.query_arguments import parse_arguments

    terms = parse_arguments(query or [], text or [], image or [])
    if note := _reading(query or [], terms):
        console.note(note)
    from coca.search.photo_filter import find_period

    dated = bool(among.since or among.until or among.during)
    periods = [] if dated else [find_period(term.text) for term in terms if term.text]
    if period := next(filter(None, periods), ""):
        console.note(
            f"{period!r} is part of the text; to search that time only: "
            f"--during {shlex.quote(period)}"
        )
    with target.open(execution) as engine:
        options = options.replace(filter=among.expression(engine.collection), ranking=ranking)
        if not why:
            hits = engine.search_terms(terms, options)
        if explain or why:
            ids = [_id_of(engine.collection, why)] if why else [hit.id for hit in hits]
            print_explanations(console, [engine.explain(it, terms, **dict(options)) for it in ids])
            return
        wanted = [term.text for term in terms if term.text and term.weight > 0]
        meant = {typed: engine.did_you_mean(typed) for typed in wanted}
    for typed, other in meant.items():
        if other:
            console.note(f"{typed!r}: did you mean {other!r}?")
    print_hits(console, hits, first=options.offset + 1)


def _id_of(collection: "Collection", photo: str) -> str:
    """Return the id of a record by its path or id."""
    from coca.search.filters import any_of, where

    is_path = where("path", "in", [os.path.abspath(photo), photo])
    if ids := collection.ids(any_of(is_path, where("id", "==", photo))):
        return ids[0]
    raise SearchError(
        f"{photo} is not indexed in collection {collection.info.collection!r}: "
        f"coca index {shlex.quote(photo)}"
    )


def _reading(words: Sequence[str], terms: Sequence["Term"]) -> str:
    """Describe how positional arguments were read, where another reading is possible; else ""."""
    if words and (len(terms) > 1 or terms[0].image):
        parts = [
            f"{'the image ' if term.image else ''}{term.image or term.text!r}"
            + (f" with weight {term.weight:g}" if term.weight != 1 else "")
            for term in terms
        ]
        typed = shlex.quote(" ".join(words))
        negated = any(term.weight < 0 for term in terms) and not any(":" in word for word in words)
        hint = f"; for the text as typed: --text {typed}" if negated else ""
        return f"searching for {' and '.join(parts)}{hint}"
    if len(words) == 1 and os.path.isdir(words[0]):
        return f"searching for the text {words[0]!r}; to index the folder: coca index {words[0]}"
    if len(words) > 1 and any(" " in word for word in words):
        each = " ".join(f"--text {shlex.quote(word)}" for word in words)
        return f"searching for one text, {terms[0].text!r}; for the sum of several: {each}"
    return ""
