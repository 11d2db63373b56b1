"""Errors of configurations: one line each with the key, the expected type and the value.

Each section describes its own errors while pydantic validates it; `sentences` adds the keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from coca.core.config.fields import KIND, Tree, hint_of, kinds_of, section_of, show, words
from coca.core.errors import did_you_mean

WRONG = "wrong"
_RULE, _ABSENT, _UNKNOWN, _OTHER_KIND = "rule", "absent", "unknown", "other_kind"
"""Types of described errors; the text follows the key of the setting, except that of a rule."""

Origins: TypeAlias = Mapping[str, tuple[int, str]]
"""Dotted key -> position and name of the last layer that gives it."""


def described(kind: type[BaseModel], given: Any, error: ValidationError) -> ValidationError:
    """Describe the errors of a section, except those that its sections have described."""
    found: dict[Any, PydanticCustomError] = {}
    errors = error.errors(include_url=False)
    for each in errors:
        what, text, loc = each["type"], each["msg"], each["loc"]
        if any(other["loc"][: len(loc)] == loc != other["loc"] for other in errors):
            continue  # Invalid items also make a list too short.
        if what == "value_error":
            what, text = _RULE, str(each["ctx"]["error"])
        elif what not in (WRONG, _RULE, _ABSENT, _UNKNOWN, _OTHER_KIND):
            loc = loc[:1]
            what, text = _description(kind, given, *map(str, loc))
        found.setdefault(loc, PydanticCustomError(what, text))
    lines = [InitErrorDetails(type=each, loc=loc, input=None) for loc, each in found.items()]
    return ValidationError.from_exception_data(kind.__name__, lines)


def _description(kind: type[BaseModel], given: Any, name: str | None = None) -> tuple[str, str]:
    """Return the type and the text of the error of a section, or of one of its settings."""
    if name is None:
        return WRONG, f" must be {words(kind)}, got {show(given)}"
    if field := kind.model_fields.get(name):
        wanted = words(hint_of(field))
        if name in given:
            return WRONG, f" must be {wanted}, got {show(given[name])}"
        return _ABSENT, f" is missing; it must be {wanted}"
    kinds: Mapping[str, type[BaseModel]] = getattr(kind, "kinds", dict)()
    owners = ", ".join(owner for owner, each in kinds.items() if name in each.model_fields)
    what, problem = (_OTHER_KIND, f"a setting of kind {owners}") if owners else (_UNKNOWN, _UNKNOWN)
    return what, f" = {show(given[name])} is {problem}; {did_you_mean(name, kind.model_fields)}"


def sentences(error: ValidationError, root: type[BaseModel], origins: Origins) -> list[str]:
    """Return a sentence for each described error, with the layer that gives the value."""
    result = []
    for each in error.errors(include_url=False):
        what, text, key = each["type"], each["msg"], _dotted(each["loc"])
        if what == _RULE:
            result.append(f"{key}: {text}" if key else text)
            continue
        if what == _UNKNOWN:
            text = _with_other_sections(text, key, root)
        _, layer = origins.get(key.rpartition(".")[0] if what == _ABSENT else key, (0, ""))
        result.append(f"{key}{text}{layer and f' ({layer})'}".lstrip(" ."))
    return result


def _with_other_sections(text: str, key: str, root: type[BaseModel]) -> str:
    """Suggest an unknown key in other sections, unless its own section has a similar one."""
    name = key.rpartition(".")[2]
    elsewhere = {each for each in _keys(root) if each.rpartition(".")[2] == name} - {key}
    if not elsewhere or ("." in key and "did you mean" in text):
        return text
    nearest = get_close_matches(key, elsewhere, n=3, cutoff=0)
    return f"{text[: text.rindex(';')]}; did you mean {' or '.join(map(repr, nearest))}?"


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that is not inside a list or mapping."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        section, index = section_of(field.annotation)
        if section and not index:
            for each in kinds_of(section).values() or [section]:
                yield from _keys(each, f"{prefix}{name}.")


def replaced_settings(error: ValidationError, origins: Origins) -> list[tuple[int | str, ...]]:
    """Return the settings of another kind from layers before the one that chooses the kind."""
    return [
        loc
        for each in error.errors()
        if each["type"] == _OTHER_KIND
        and origins[_dotted(loc := each["loc"])] < origins.get(_dotted((*loc[:-1], KIND)), (-1,))
    ]


def origins_of(layers: Sequence[tuple[str, Tree]]) -> Origins:
    """Return the last of the layers, each a name and a tree, that gives each key."""
    return {key: (at, name) for at, (name, tree) in enumerate(layers) for key in _paths(tree)}


def _paths(tree: Any, prefix: str = "") -> Iterator[str]:
    pairs = enumerate(tree) if isinstance(tree, list) else tree.items()
    for key, value in pairs:
        yield f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _paths(value, f"{prefix}{key}.")


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))
