from typing import Annotated, Literal

import typer
from pydantic import Field
from typer.testing import CliRunner

from coca.cli.options.option_groups import Group, grouped
from coca.cli.options.search_options import CollectionOptions, FilterOptions
from coca.core.config.frozen_config import Config
from coca.core.errors import ArgumentError


def test_a_group_of_options_is_among_the_others_of_a_command() -> None:
    printed: list[object] = []
    app = typer.Typer()

    @app.command()
    @grouped
    def command(
        word: str,
        *,
        among: FilterOptions,
        loud: Annotated[bool, typer.Option("--loud")] = False,
        collection: CollectionOptions,
    ) -> None:
        """Record it."""
        printed.append((word, loud, among, collection))

    runner = CliRunner()
    assert runner.invoke(app, ["x", "--tag", "a", "--tag", "b", "-c", "other"]).exit_code == 0
    assert printed == [
        ("x", False, FilterOptions(tag=["a", "b"]), CollectionOptions(collection="other"))
    ]
    output = runner.invoke(app, ["--help"]).output
    assert "Record it." in output
    assert output.index("--since") < output.index("--loud") < output.index("--uri")
    assert isinstance(runner.invoke(app, ["x", "--since", "soon"]).exception, ArgumentError)


class Brush(Config):
    """A configuration."""

    line_width: Annotated[int, Field(ge=1)] = 2
    """Width in pixels; `opacity` changes `nothing`."""
    opacity: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of light that is blocked."""
    tip: Literal["round", "flat"] = "round"
    """Shape of the tip."""


def test_the_fields_of_a_configuration_become_options() -> None:
    brushes: list[Brush] = []
    app = typer.Typer()

    @app.command()
    @grouped
    def paint(*, brush: Annotated[Brush, Group(panel="Brush", short={"line_width": "-w"})]) -> None:
        """Paint."""
        brushes.append(brush)

    runner = CliRunner()
    for arguments in ([], ["-w", "3", "--opacity", "0.5"], ["--tip", "flat"]):
        assert runner.invoke(app, arguments).exit_code == 0
    assert brushes == [Brush(), Brush(line_width=3, opacity=0.5), Brush(tip="flat")]
    assert runner.invoke(app, ["--tip", "sharp"]).exit_code == 2
    shown = " ".join(runner.invoke(app, ["--help"]).output.replace("│", " ").split())
    assert "Width in pixels; --opacity changes `nothing`. At least 1." in shown
    assert "Fraction of light that is blocked. In [0, 1]." in shown
    assert "[default: 2]" in shown
    assert "[default: None]" not in shown
