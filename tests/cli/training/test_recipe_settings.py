from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Field

from coca.cli.training.recipe_settings import Setting, describe
from coca.core.config.fields import show, words
from coca.core.config.frozen_config import Config


class Part(Config):
    """A section."""

    width: int = 8
    """Width in pixels."""

    shown: bool = False

    @classmethod
    def presets(cls) -> dict[str, Self]:
        return {"small": cls(width=2), "large": cls(width=64)}


class Whole(Config):
    name: str
    """What it is called,
    in a few words."""
    part: Part = Part(width=16)
    """Not shown: a section has rows of its own."""
    spare: Part | None = None
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = Field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two means."""


ROWS = {row.key: row for row in describe(Whole)}


def test_every_setting_has_a_row_in_the_order_of_the_fields() -> None:
    part = ["preset", "width", "shown"]
    assert list(ROWS) == [
        "name",
        *[f"part.{name}" for name in part],
        *[f"spare.{name}" for name in part],
        *[f"parts.N.{name}" for name in part],
        *[f"named.NAME.{name}" for name in part],
        "betas",
    ]


def test_a_row_holds_type_default_and_the_docstring_below_the_field() -> None:
    assert ROWS["betas"] == Setting(
        key="betas",
        type="a list of 2: a number, a number",
        default="[0.9, 0.95]",
        text="Decay of the two means.",
    )
    assert ROWS["name"].text == "What it is called, in a few words."
    assert ROWS["name"].default is None
    assert ROWS["part.shown"].text == ""
    # The default is the one that the section has in its place.
    assert (ROWS["part.width"].default, ROWS["spare.width"].default) == ("16", "8")
    assert ROWS["part.preset"].type == "one of 'small', 'large'"


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "a whole number"),
        (bool, "true or false"),
        (int | str, "a whole number or a text"),
        (Literal["a", 1, None], "one of 'a', 1, null"),
        (list[Path], "a list, each a path"),
        (dict[str, float], "a mapping, each value a number"),
        (Any, "any value"),
        (Annotated[int, Field(ge=1)], "a whole number of at least 1"),
        (Annotated[int, Field(ge=1, le=16)], "a whole number in [1, 16]"),
        (Annotated[float, Field(gt=0, le=1)] | None, "a number in (0, 1] or null"),
        (Annotated[float, Field(gt=0, lt=1)], "a number in (0, 1)"),
        (Annotated[float, Field(le=0.5)], "a number of at most 0.5"),
        (Annotated[float, Field(lt=1)], "a number below 1"),
        (Annotated[str, Field(description="no range")], "a text"),
        (date, "date"),
    ],
)
def test_a_type_is_described_in_words(hint: Any, text: str) -> None:
    assert words(hint) == text


def test_a_value_is_shown_as_a_recipe_would_write_it() -> None:
    assert [show(value) for value in (None, True, "a", [1, "b"], 1.5)] == [
        "null",
        "true",
        "'a'",
        '[1, "b"]',
        "1.5",
    ]


def test_a_long_value_is_cut() -> None:
    assert len(show("x" * 1000)) == 80
