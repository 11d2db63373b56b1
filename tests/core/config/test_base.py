"""Ranges of settings are declared by the types of fields, and checked in recipes and in code."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeInt, PositiveInt

from coca.core.config.base import Config
from coca.core.config.docs import show, to_plain
from coca.core.config.serialization import from_dict, load_config, to_dict
from coca.core.errors import ArgumentError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Part:
    path: Path
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Ranged(Config):
    steps: PositiveInt = 1
    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    warmup: NonNegativeInt | Annotated[float, Field(ge=0, lt=1)] = 0.5
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    channels: Annotated[int, Field(gt=0, multiple_of=32)] = 32
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("a",)
    kind: Literal["a", "b"] = "a"
    sources: Annotated[tuple[Part, ...], Field(min_length=1)] = (Part(path=Path("a")),)
    spare: Annotated[dict[str, Part], Field(min_length=1)] | None = None
    folder: Path = Path("not checked")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps == 1000 // self.steps:
            raise ConfigError("a rule between fields")


@dataclass(frozen=True, kw_only=True)
class RangedRun(Config):
    part: Ranged = field(default_factory=Ranged)


OUTSIDE: list[tuple[str, Any, str]] = [
    ("steps", 0, "a whole number above 0"),
    ("steps", True, "a whole number above 0"),
    ("steps", 2.5, "a whole number above 0"),
    ("decay", 1, "a number in [0, 1) or null"),
    ("decay", -0.5, "a number in [0, 1) or null"),
    ("decay", math.nan, "a number in [0, 1) or null"),
    ("warmup", -1, "a whole number of at least 0 or a number in [0, 1)"),
    ("warmup", 1.0, "a whole number of at least 0 or a number in [0, 1)"),
    ("betas", (0.5, 1.0), "a list, each a number in [0, 1)"),
    ("channels", 48, "a whole number above 0 that is a multiple of 32"),
    ("names", (), "a list of at least 1, each a text"),
    ("kind", "c", "one of 'a', 'b'"),
    ("sources", (), "a list of at least 1, each a section with path, weight"),
    ("spare", {}, "a mapping of at least 1, each value a section with path, weight or null"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), OUTSIDE)
def test_a_value_out_of_range_is_an_error_in_code_and_in_a_recipe(
    name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Ranged(**{name: value})
    assert str(caught.value) == f"{name} must be {allowed}, got {show(value)}"
    with pytest.raises(ConfigError) as caught:
        load_config(RangedRun, {"part": {name: value}})
    given = show(to_plain(value))
    assert str(caught.value) == f"part.{name} must be {allowed}, got {given} (given in code)"


def test_ranges_are_checked_before_rules_and_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^steps must be .*, got 0; decay must be .*, got 2$"):
        Ranged(steps=0, decay=2)
    with pytest.raises(ConfigError) as caught:
        load_config(RangedRun, {"part": {"steps": 0, "kind": "c"}}, overrides=["part.decay=2"])
    assert len(str(caught.value).splitlines()) == 3


def test_values_inside_their_ranges_are_kept_as_they_are() -> None:
    values = {"decay": 0.0, "warmup": 100, "betas": (0.0, 0.99), "channels": 64}
    config = Ranged(steps=3, **values)  # type: ignore[arg-type]
    assert all(getattr(config, name) is value for name, value in values.items())
    plain = to_dict(RangedRun(part=config))
    assert from_dict(RangedRun, plain, source="config.json") == RangedRun(part=config)


def test_a_class_may_raise_its_own_error() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Argument(Config):
        range_error = ArgumentError
        k: PositiveInt = 1

    with pytest.raises(ArgumentError, match=r"^k must be a whole number above 0, got 0$"):
        Argument(k=0)
