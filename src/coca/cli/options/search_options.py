"""Options shared by all commands that search a collection: collection, model and filters."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from coca.cli.console import Console
from coca.cli.options import defaults
from coca.cli.options.option_groups import Group
from coca.core.config.execution import Execution
from coca.core.config.frozen_config import Config
from coca.search.search_options import PhotoFilter

if TYPE_CHECKING:
    from coca.predict.predictor import Predictor
    from coca.search.query.engine import SearchEngine
    from coca.search.query.explanation import Explanation
    from coca.search.records import Hit
    from coca.search.store import Collection

FILTERS = Group(panel="Filters", short={"filter": "-f"})


class FilterOptions(PhotoFilter):
    """Filter options of a search."""

    filter: str = ""
    """Filter expression, such as 'metadata["year"] > 2020 and caption like "%car%"'."""
    tag: list[str] | None = None
    """Tag that every result must have, in any case; may be repeated."""

    def expression(self, collection: "Collection") -> str:
        """Combine all options into one filter expression; empty without any."""
        from coca.search.filters import all_of

        conditions = [self.filter] if self.filter else []
        if self.tag:
            from coca.search.query.listing import filter_of_tags

            conditions.append(filter_of_tags(collection, self.tag))
        conditions += self.conditions()
        return all_of(*conditions) if conditions else ""


class CollectionOptions(Config):
    """Options that select the collection and the model."""

    uri: defaults.Uri = None
    collection: defaults.Collection = None
    model: defaults.Model = None
    token: defaults.Token = ""

    def open(self, execution: Execution) -> "AbstractContextManager[SearchEngine]":
        """Open the search engine: the collection and the model that filled it."""
        uri = defaults.search_uri(self.uri)
        from coca.workflows.collections.collection_model import open_search

        return open_search(
            uri,
            collection=self.collection,
            token=self.token,
            model=self.model,
            fallback=lambda: os.environ.get("COCA_MODEL"),
            execution=execution,
        )

    def open_collection(self, name: str | None = None) -> "AbstractContextManager[Collection]":
        """Open the collection without a model, or another collection at the same URI."""
        uri = defaults.search_uri(self.uri)
        from coca.search.stores import open_collection

        return open_collection(uri, name or self.collection, token=self.token)

    def load_model(self, collection: "Collection", execution: Execution) -> "Predictor":
        """Load the model of --model, or else the model that filled the collection."""
        from coca.workflows.collections.collection_model import model_of

        named = self.model or model_of(collection.info)
        return defaults.load_model(named, execution, info=collection.info)


def print_hits(console: Console, hits: Sequence["Hit"], *, first: int = 1) -> None:
    """Print results as a table with ranks from `first` on, or as JSON records.

    The sort key is always among the columns: the cosine, the rank score, or the sum of image,
    caption and words. Of hits that were ranked by a text, `why` is the reason. A line
    follows the last likely hit.
    """
    reasons: dict[str, list[str]] = {
        "rank score": [_number(hit.rank_score, digits=3) for hit in hits],
        "log likelihood": [_number(hit.log_likelihood, digits=1) for hit in hits],
        "sum": [_number(hit.fused_score, digits=3) for hit in hits],
        "words": [_number(hit.bm25, digits=1) for hit in hits],
        "why": ["unlikely" if hit.likely is False else hit.reason for hit in hits],
    }
    shown = {name: column for name, column in reasons.items() if any(column)}
    rows = [
        [str(rank), *reason, f"{hit.score:.3f}", hit.caption, from_here(hit.path)]
        for rank, (hit, *reason) in enumerate(zip(hits, *shown.values(), strict=True), start=first)
    ]
    if rows:
        columns = ["rank", *shown, "score", "caption", "path"]
        end = max((row for row, hit in enumerate(hits, start=1) if hit.likely), default=0)
        if end < len(hits) and hits[-1].likely is not None:
            rows.insert(end, [*[""] * (len(columns) - 2), "-- probably not --", ""])
        console.table(columns, rows, right=[name for name in columns[:-2] if name != "why"])
    else:
        console.say("nothing was found")
    console.emit([asdict(hit) for hit in hits])


def print_newest(console: Console, hits: Sequence["Hit"]) -> None:
    """Print images that no query ranks, with their dates."""
    if hits:
        rows = [
            [f"{datetime.fromtimestamp(hit.time, UTC):%Y-%m-%d}", hit.caption, from_here(hit.path)]
            for hit in hits
        ]
        console.table(["date", "caption", "path"], rows)
    else:
        console.say("nothing was found")
    console.emit([asdict(hit) for hit in hits])


def print_explanations(console: Console, explanations: Sequence["Explanation"]) -> None:
    """Print why records have their places: a block for each, or JSON."""
    for one in explanations:
        score = "no score" if one.score is None else f"score {one.score:.3f}"
        parts = (f"{it.source} {it.value:+.3f}{it.term and f' {it.term!r}'}" for it in one.parts)
        rows = {
            "not found" if one.rank is None else str(one.rank): f"{score}  {from_here(one.path)}",
            "parts": ", ".join(parts),
            "against": "; ".join(one.against),
            "caption": one.caption,
            "labels": ", ".join(f"{it.label} {it.probability:.0%}" for it in one.labels),
            "words": ", ".join(f"{it.word} {it.support:+.1f}" for it in one.words),
            "missing": "; ".join(f"{name}: {why}" for name, why in one.missing.items()),
        }
        for name, text in rows.items():
            if text:
                console.say(f"{name:9} {text}")
    console.emit([asdict(one) for one in explanations])


def from_here(path: str) -> str:
    """Return a path relative to the working directory if it is below it, else unchanged."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))


def _number(value: float | None, *, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
