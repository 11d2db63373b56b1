"""Documentation of configuration fields: described types, defaults and docstrings."""

import ast
import dataclasses
import datetime
import inspect
import json
import linecache
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeGuard,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

Tree = dict[str, Any]
"""Section of a configuration as plain types."""

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
    Any: "any value",
}


KIND = "kind"
"""Key that chooses the class of a section with `kinds()`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the settings reference."""

    key: str
    """Dotted key of a recipe; `N` is a list position and `NAME` a user-defined name."""
    type: str
    """Description of the expected type and range."""
    default: str | None
    """Default in recipe syntax; None if the setting is required."""
    text: str
    """Docstring of the field."""
    kinds: tuple[str, ...] = ()
    """Kinds of section that have the setting; empty: all."""


def describe(kind: Any, prefix: str = "", *, base: Any = None) -> Iterator[Setting]:
    """Yield every setting of a configuration class, in the order of its fields."""
    if kinds := kinds_by_name(kind):
        yield from _describe_kinds(kinds, prefix, base=base)
        return
    if hasattr(kind, "presets"):
        choices = one_of(kind.presets())
        text = "The settings to start from; the other keys of this section change them."
        yield Setting(key=f"{prefix}preset", type=choices, default="null", text=text)
    texts = docstrings(kind)
    for field in dataclasses.fields(kind):
        key, hint = prefix + field.name, field_types(kind)[field.name]
        value = default_of(field) if base is None else getattr(base, field.name)
        inner = without_range(without_none(hint))
        if is_section(inner):
            start = value if dataclasses.is_dataclass(value) else None
            yield from describe(inner, f"{key}.", base=start)
        elif item := item_section(inner):
            index = "NAME" if get_origin(inner) is dict else "N"
            yield from describe(item, f"{key}.{index}.")
        else:
            default = None if value is dataclasses.MISSING else show(to_plain(value))
            text = texts.get(field.name, "")
            yield Setting(key=key, type=words(hint), default=default, text=text)


def _describe_kinds(kinds: Mapping[str, type], prefix: str, *, base: Any) -> Iterator[Setting]:
    """Yield the settings that all kinds share, then those of some kinds."""
    rows: dict[Setting, list[str]] = {}
    for name, kind in kinds.items():
        for row in describe(kind, prefix, base=base if type(base) is kind else None):
            rows.setdefault(row, []).append(name)
    shared = shared_settings(kinds)
    first = next(iter(kinds)) if base is None else base.kind
    default = None if base is None else show(base.kind)
    for row, names in rows.items():
        name = row.key.removeprefix(prefix).partition(".")[0]
        if name == KIND and first in names:
            yield dataclasses.replace(row, type=one_of(kinds), default=default)
        elif name in shared and first in names:
            yield row
    for row, names in rows.items():
        if row.key.removeprefix(prefix).partition(".")[0] not in shared:
            yield dataclasses.replace(row, kinds=tuple(names))


def kinds_by_name(kind: Any) -> dict[str, type]:
    """Return the result of a class's own `kinds()`; empty if it only inherits one, or has none."""
    return dict(kind.kinds()) if "kinds" in vars(kind) else {}


def kinds_of(kind: type) -> tuple[type, ...]:
    """Return the classes that a section may be of: those of `kinds()`, else the class itself."""
    return tuple(kinds_by_name(kind).values()) or (kind,)


def shared_settings(kinds: Mapping[str, type]) -> set[str]:
    """Return the settings that all kinds have."""
    return set.intersection(*(set(field_types(kind)) for kind in kinds.values()))


def settings_of(name: str, kinds: Mapping[str, type]) -> str:
    """List the settings that a kind does not share with all others, for an error message."""
    shared = shared_settings(kinds)
    own = [setting for setting in field_types(kinds[name]) if setting not in shared]
    return f"kind {name} has {', '.join(own) or 'no settings of its own'}"


def words(hint: Any, limits: str = "") -> str:
    """Describe a type and its range for users; `limits` is the range of an enclosing type."""
    if get_origin(hint) is Annotated:
        return words(without_range(hint), limits_of(hint))
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
    if is_section(hint):
        return f"a section with {', '.join(field_types(hint))}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return one_of(member.value for member in hint)
    return str(getattr(hint, "__name__", hint))


def limits_of(hint: Any) -> str:
    """Describe the range of a type: ` in (0, 1]`, ` of at least 1`; empty without a range."""
    rules = [
        rule
        for outer in getattr(hint, "__metadata__", ())
        for rule in getattr(outer, "metadata", [outer])
    ]
    bounds = {
        name: bound
        for rule in rules
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length")
        if (bound := getattr(rule, name, None)) is not None
    }
    match bounds:
        case {"ge": low, "le": high}:
            text = f" in [{low}, {high}]"
        case {"ge": low, "lt": high}:
            text = f" in [{low}, {high})"
        case {"gt": low, "le": high}:
            text = f" in ({low}, {high}]"
        case {"gt": low, "lt": high}:
            text = f" in ({low}, {high})"
        case {"ge": low} | {"min_length": low}:
            text = f" of at least {low}"
        case {"gt": low}:
            text = f" above {low}"
        case {"le": high}:
            text = f" of at most {high}"
        case {"lt": high}:
            text = f" below {high}"
        case _:
            text = ""
    step = bounds.get("multiple_of")
    return text if step is None else f"{text} that is a multiple of {step}"


def one_of(values: Iterable[Any]) -> str:
    """Describe a choice among values."""
    return "one of " + ", ".join(map(show, values))


def show(value: Any) -> str:
    """Format a value in recipe syntax, truncated to 80 characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."


def to_plain(value: Any) -> Any:
    """Convert to JSON types: sections and mappings to dict, tuples to list, paths to str."""
    if is_section(type(value)):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


def is_section(hint: Any) -> TypeGuard[type]:
    """Return whether a field of this type is a section."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def item_section(hint: Any) -> type | None:
    """Return the section type of the items of a list, variadic tuple or dict, or None."""
    match get_origin(hint), get_args(hint):
        case (builtins, (item,)) if builtins is list and is_section(item):
            return item
        case (builtins, (item, end)) if builtins is tuple and end is ... and is_section(item):
            return item
        case (builtins, (_, item)) if builtins is dict and is_section(item):
            return item
    return None


def without_none(hint: Any) -> Any:
    """Return `X` for `X | None`; any other type unchanged."""
    if get_origin(hint) in (Union, UnionType):
        rest = [argument for argument in get_args(hint) if argument is not NoneType]
        return rest[0] if len(rest) == 1 else hint
    return hint


def without_range(hint: Any) -> Any:
    """Return `X` for `Annotated[X, ...]`; any other type unchanged."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def is_restricted(hint: Any) -> bool:
    """Return whether a type, or a part of it, has a range or a choice of values."""
    return get_origin(hint) in (Annotated, Literal) or any(map(is_restricted, get_args(hint)))


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Return the type of each field, in order."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field; `dataclasses.MISSING` if it is required."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def docstrings(kind: type) -> dict[str, str]:
    """Parse the docstrings of fields of a dataclass or TypedDict from source; Python drops them.

    A field without a docstring has that of the class it overrides.
    """
    texts: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each) or is_typeddict(each):
            texts |= _own_docstrings(each)
    return texts


def _own_docstrings(kind: type) -> dict[str, str]:
    """Parse the docstrings that the class itself has."""
    try:
        path = inspect.getsourcefile(kind)
    except (OSError, TypeError):  # a class defined in a REPL has no source
        return {}
    definition = _classes_in(path).get(kind.__qualname__) if path else None
    if definition is None:
        return {}
    texts = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                # Line breaks of the source are not part of the text.
                texts[name] = " ".join(text.split())
    return texts


@cache
def _classes_in(path: str) -> dict[str, ast.ClassDef]:
    """Parse the classes of a source file, by qualified name.

    `inspect.getsource` parses the file for each class and tokenizes the class as well, which took
    46 of 170 ms of the imports of a command.
    """
    found: dict[str, ast.ClassDef] = {}

    def add(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            match node:
                case ast.ClassDef(name):
                    found[prefix + name] = node
                    add(node, f"{prefix}{name}.")
                case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                    add(node, f"{prefix}{name}.<locals>.")
                case ast.stmt():
                    add(node, prefix)

    add(ast.parse("".join(linecache.getlines(path))), "")
    return found
