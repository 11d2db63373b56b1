"""Base class of configurations: the type of a field declares its range.

Importing pydantic takes 0.05 s. So it is imported by the first check, and configurations whose
fields are options of a command use `annotated_types`, which pydantic reads too: `Annotated[int,
Ge(1)]`.
"""

from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, TypeAlias, get_origin

from annotated_types import Interval

from coca.core.config.docs import (
    field_types,
    is_restricted,
    item_section,
    show,
    without_none,
    without_range,
    words,
)
from coca.core.errors import ConfigError

Fraction: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
"""Type of a fraction or a probability."""


class Config:
    """Base class of configurations: rejects values outside the range that their field declares.

    The range is part of the type, as in pydantic: `Annotated[float, Field(gt=0, le=1)]`,
    `PositiveInt`. A rule between several fields is part of `__post_init__`, after
    `super().__post_init__()`.

    Raises:
        ConfigError: A value is out of range; the message lists all such fields.
    """

    range_error: ClassVar[type[ConfigError]] = ConfigError
    """Class of the error."""
    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Names of fields in earlier versions, each with the current name."""
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Values of fields in earlier versions, each with the current value, by current field name."""

    def __post_init__(self) -> None:
        kind: type = type(self)
        faults = []
        for name in _restricted_fields(kind):
            value, hint = _plain_number(getattr(self, name)), field_types(kind)[name]
            try:
                validator(without_items(hint)).validate_python(value, strict=True)
            except ValueError:  # the error class of pydantic is one
                faults.append(f"{name} must be {words(hint)}, got {show(value)}")
        if faults:
            raise self.range_error("; ".join(faults))


@cache
def _restricted_fields(kind: type) -> tuple[str, ...]:
    return tuple(name for name, hint in field_types(kind).items() if is_restricted(hint))


def without_items(hint: Any) -> Any:
    """Return the type of a collection of sections without its items; they are validated before."""
    inner = without_none(hint)
    bare = without_range(inner)
    if item_section(bare) is None:
        return hint
    outer = get_origin(bare) if bare is inner else Annotated[get_origin(bare), *inner.__metadata__]
    return outer if inner is hint else outer | None


@cache
def validator(hint: Any) -> Any:  # a TypeAdapter, whose generic type beartype does not support
    """Build the pydantic validator of a type, which rejects numbers that are not finite."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _plain_number(value: Any) -> Any:
    """Convert numbers of NumPy to those of Python, which a strict check requires."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
