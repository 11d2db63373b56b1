import os
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from coca.cli.search_options import CollectionOptions, FilterOptions, from_here, grouped


def test_a_group_of_options_stands_among_the_others_of_a_command() -> None:
    said: list[object] = []
    app = typer.Typer()

    @app.command()
    @grouped
    def command(
        word: str,
        *,
        among: FilterOptions,
        loud: Annotated[bool, typer.Option("--loud")] = False,
        place: CollectionOptions,
    ) -> None:
        """Say it."""
        said.append((word, loud, among, place))

    runner = CliRunner()
    assert runner.invoke(app, ["x", "--tag", "a", "--tag", "b", "-c", "other"]).exit_code == 0
    assert said == [
        ("x", False, FilterOptions(tag=["a", "b"]), CollectionOptions(collection="other"))
    ]
    told = runner.invoke(app, ["--help"]).output
    assert "Say it." in told
    assert told.index("--since") < told.index("--loud") < told.index("--uri")
    assert runner.invoke(app, ["x", "--since", "soon"]).exit_code == 2


def test_wishes_are_joined_so_that_none_reaches_into_another() -> None:
    assert FilterOptions().expression == ""
    assert FilterOptions(filter="width > 1 or width < 0").expression == "width > 1 or width < 0"
    both = FilterOptions(filter="width > 1 or width < 0", tag=["a"]).expression
    assert both.startswith("(width > 1 or width < 0) and (")


def test_a_path_is_shown_from_here_only_if_it_lies_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(f"{tmp_path}{os.sep}a.jpg") == "a.jpg"
    for elsewhere in (f"{tmp_path}-other{os.sep}a.mp4#t=1.5", "https://host/a.jpg"):
        assert from_here(elsewhere) == elsewhere
