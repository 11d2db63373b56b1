"""Fields of configurations: sections, kinds and defaults; types and values in words."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Tree: TypeAlias = dict[str, Any]
"""Section of a configuration as plain types."""

KIND, PRESET = "kind", "preset"
"""Keys that choose the class of a section with `kinds()`, and the values that it starts from."""

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
    Any: "any value",
}


def kinds_of(kind: Any) -> dict[str, type[BaseModel]]:
    """Return the result of a class's own `kinds()`; empty if it only inherits one, or has none."""
    return dict(kind.kinds()) if "kinds" in vars(kind) else {}


def section_of(hint: Any, index: str = "") -> tuple[type[BaseModel] | None, str]:
    """Return the class of a section and its index: `.N` in a list, `.NAME` in a mapping."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint, index
    index = {list: ".N", tuple: ".N", dict: ".NAME"}.get(get_origin(hint), index)
    sections = (section_of(each, index) for each in get_args(hint))
    return next((each for each in sections if each[0]), (None, ""))


def hint_of(field: FieldInfo) -> Any:
    """Return the type of a field with its range, which pydantic keeps apart."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def text_of(field: FieldInfo) -> str:
    """Return the docstring of a field, without the line breaks of the source."""
    return " ".join((field.description or "").split())


def without_none(hint: Any) -> Any:
    """Return `X` for `X | None`; any other type unchanged."""
    if get_origin(hint) in (Union, UnionType):
        rest = [argument for argument in get_args(hint) if argument is not NoneType]
        return rest[0] if len(rest) == 1 else hint
    return hint


def without_range(hint: Any) -> Any:
    """Return `X` for `Annotated[X, ...]`; any other type unchanged."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def words(hint: Any) -> str:
    """Describe a type and its range."""
    limits = limits_of(getattr(hint, "__metadata__", ()))
    hint = without_range(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list or (origin is tuple and arguments[1:] == (Ellipsis,)):
        return f"a list{limits}, each {words(arguments[0])}"
    if hint in _WORDS:
        return _WORDS[hint] + limits
    if origin is Literal:
        return one_of(arguments)
    if origin in (Union, UnionType):
        return " or ".join(map(words, arguments))
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(words, arguments))}"
    if origin in (dict, Mapping):
        each = "" if arguments[1] is Any else f", each value {words(arguments[1])}"
        return f"a mapping{limits}{each}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return f"a section with {', '.join(hint.model_fields)}"
    return str(getattr(hint, "__name__", hint))


def limits_of(metadata: Iterable[Any]) -> str:
    """Describe the range in the metadata of a type: ` in (0, 1]`, ` of at least 1`; else empty."""
    rules = [rule for outer in metadata for rule in getattr(outer, "metadata", [outer])]
    names = ("ge", "gt", "le", "lt", "multiple_of", "min_length")
    bounds = {
        name: bound
        for rule in rules
        for name in names
        if (bound := getattr(rule, name, None)) is not None
    }
    low = bounds.get("ge", bounds.get("gt", bounds.get("min_length")))
    high = bounds.get("le", bounds.get("lt"))
    text = ""
    if low is not None and high is not None:
        text = f" in {'(' if 'gt' in bounds else '['}{low}, {high}{']' if 'le' in bounds else ')'}"
    elif low is not None:
        text = f" above {low}" if "gt" in bounds else f" of at least {low}"
    elif high is not None:
        text = f" of at most {high}" if "le" in bounds else f" below {high}"
    step = bounds.get("multiple_of")
    return text if step is None else f"{text} that is a multiple of {step}"


def one_of(values: Iterable[Any]) -> str:
    """Describe a choice among values."""
    return "one of " + ", ".join(map(show, values))


def show(value: Any) -> str:
    """Format a value in recipe syntax, truncated to 80 characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."
