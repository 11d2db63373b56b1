"""What all commands that look into a collection share: where, by which model, among which images.

A group of options is a dataclass; `grouped` lets a command take it as one parameter.
"""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from coca.cli import defaults
from coca.cli.console import Console
from coca.core.progress import ProgressMaker, silent

if TYPE_CHECKING:
    from coca.inference.predictor import Predictor
    from coca.search.milvus.collection import Collection
    from coca.search.query.engine import SearchEngine
    from coca.search.records import Hit

Limit = Annotated[int, typer.Option("-k", "--limit", min=1, help="Most results.")]


def _day(text: str) -> date:
    with suppress(ValueError):
        return date.fromisoformat(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no day such as 2024-06-01, nor a time such as 2024-06-01T18:30"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Among:
    """Which images of a collection may be results."""

    filter: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            help='Milvus expression, such as \'metadata["year"] > 2020 and caption like "%car%"\'.',
        ),
    ] = ""
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="Tag that each must carry; may be repeated."),
    ] = None
    since: Annotated[
        date | None,
        typer.Option(
            "--since", parser=_day, metavar="DAY", help="Taken on that day or later: 2024-06-01."
        ),
    ] = None
    until: Annotated[
        date | None,
        typer.Option("--until", parser=_day, metavar="DAY", help="Taken on that day or before."),
    ] = None

    @property
    def expression(self) -> str:
        """All of it as one filter of Milvus; empty if everything may be a result.

        Raises:
            SearchError: `until` lies before `since`, or the filter has an open quote.
        """
        from coca.search.filters import all_of, has_all_tags, taken

        wishes = [self.filter] if self.filter else []
        if self.tag:
            wishes.append(has_all_tags(self.tag))
        if self.since or self.until:
            wishes.append(taken(since=self.since, until=self.until))
        return str(all_of(*wishes)) if len(wishes) > 1 else "".join(wishes)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which collection, and by which model."""

    uri: defaults.Uri = None
    collection: defaults.Collection = "pictures"
    model: defaults.Model = None
    device: defaults.Device = None
    token: defaults.Token = ""

    def open(
        self, *, resident: bool = False, progress: ProgressMaker = silent
    ) -> "AbstractContextManager[SearchEngine]":
        """The collection with the model that filled it.

        Raises:
            ConfigError: No collection is named, and none is in the usual places.
        """
        uri = defaults.search_uri(self.uri)
        from coca.workflows.collections.search import open_search

        return open_search(
            uri,
            collection=self.collection,
            token=self.token,
            model=self.model,
            fallback=lambda: os.environ.get("COCA_MODEL"),
            device=self.device,
            resident=resident,
            progress=progress,
        )

    def open_index(self, collection: str = "") -> "Collection":
        """The collection alone, or another one of the same place.

        Raises:
            ConfigError: No collection is named, and none is in the usual places.
        """
        uri = defaults.search_uri(self.uri)
        from coca.search.milvus.collection import Collection

        return Collection.open(uri, collection or self.collection, token=self.token)

    def load_model(self, index: "Collection") -> "Predictor":
        """The model that is named, or else the one that filled the collection.

        Raises:
            ModelError: It is not there.
        """
        from coca.workflows.collections.collection_model import model_of

        return defaults.load_model(self.model or model_of(index.info), self.device)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter that is a dataclass of options taken apart into them."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        own = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=own[field.name],
            )
            for field in fields(groups[name])
        ]

    def taken_apart(**options: Any) -> None:
        for name, group in groups.items():
            own = {field.name: options.pop(field.name) for field in fields(group)}
            options[name] = group(**own)
        command(**options)

    functools.update_wrapper(taken_apart, command)
    del taken_apart.__dict__["__wrapped__"]
    by_keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    taken_apart.__dict__["__signature__"] = inspect.Signature(by_keyword)
    taken_apart.__annotations__ = {one.name: one.annotation for one in parameters}
    return taken_apart


def tell_hits(console: Console, hits: Sequence["Hit"], *, first: int = 1) -> None:
    """Show results: a table for people, with their places from `first` on; records for machines.

    What results are sorted by is always among the columns.
    """
    reasons: dict[str, list[str]] = {
        "rank score": [_number(hit.rank_score, digits=3) for hit in hits],
        "log likelihood": [_number(hit.log_likelihood, digits=1) for hit in hits],
    }
    shown = {name: column for name, column in reasons.items() if any(column)}
    rows = [
        [str(rank), *reason, f"{hit.score:.3f}", hit.caption, from_here(hit.path)]
        for rank, (hit, *reason) in enumerate(zip(hits, *shown.values(), strict=True), start=first)
    ]
    if rows:
        columns = ["rank", *shown, "score", "caption", "path"]
        console.table(columns, rows, right=["rank", *shown, "score"])
    else:
        console.say("nothing was found")
    console.emit([asdict(hit) for hit in hits])


def from_here(path: str) -> str:
    """The path as one would type it here, if it lies below the working directory."""
    return path.removeprefix(os.path.join(os.getcwd(), ""))


def _number(value: float | None, *, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
