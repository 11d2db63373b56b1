"""Errors of configurations: one line each with the key, the expected type and the value."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from coca.core.config.fields import (
    KIND,
    PRESET,
    Tree,
    hint_of,
    kinds_of,
    one_of,
    section_of,
    show,
    value_at,
    without_none,
    words,
)
from coca.core.errors import did_you_mean

_SHOWN_KEYS = 3
_MISSING = object()

Path = tuple[str, ...]


def sentences(
    error: ValidationError, kind: type[BaseModel], tree: Any, layers: Sequence[tuple[str, Tree]]
) -> list[str]:
    """Return a sentence for each setting that has an error.

    Args:
        error: Error of the validation.
        kind: Class of the configuration.
        tree: Values that were validated.
        layers: Origin and content of each recipe and override; none in Python.
    """
    found: dict[Path, str] = {}
    for each in error.errors(include_url=False):
        path, sentence = _sentence(each, kind, tree)
        # The last layer that gives the longest part of the path.
        depth, at = max(
            ((_depth(tree, path), at) for at, (_, tree) in enumerate(layers)), default=(0, 0)
        )
        if sentence and depth and each["type"] != "value_error":
            sentence += f" ({layers[at][0]})"
        found.setdefault(path, sentence)
    # A list is described by the errors of its items.
    inner = {path[:depth] for path in found for depth in range(1, len(path))}
    return [sentence for path, sentence in found.items() if sentence and path not in inner]


def _sentence(error: ErrorDetails, root: type[BaseModel], tree: Any) -> tuple[Path, str]:
    """Return the keys of a setting, and the sentence; empty if it follows from another."""
    kind = root
    hint: Any = root
    path: Path = ()
    value, keys, known_start = tree, [*map(str, error["loc"])], True
    while keys and isinstance(value, dict):
        kinds, chosen = kinds_of(kind), str(value.get(KIND))
        kind = kinds.get(chosen, kind)
        known_start = known_start and not (hasattr(kind, "presets") and PRESET in value)
        name = keys.pop(0)
        path, is_given, value = (*path, name), name in value, value.get(name)
        if (field := kind.model_fields.get(name)) is None:
            problem = _other_kind(kind, kinds, chosen, name) or _unknown(kind, root, path, value)
            return path, f"{'.'.join(path)} = {show(value)} {problem}"
        hint = hint_of(field)
        if not is_given:
            wanted = one_of(kinds) if name == KIND and kinds else words(hint)
            sentence = f"{'.'.join(path)} is missing; it must be {wanted}"
            return path, sentence if known_start else ""
        if name == KIND and kinds:
            near = did_you_mean(str(value), kinds)
            return path, f"{'.'.join(path)} = {show(value)} is unknown; {near}"
        if (section := section_of(hint)) is None:
            break
        kind = section
        if without_none(field.annotation) is section:
            hint = section
        elif keys:
            hint, item = section, keys.pop(0)
            path, value = (*path, item), value_at(value, item)
    key = ".".join(path)
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return path, (f"{key}: {text}" if key else text) if known_start else ""
    return path, f"{key} must be {words(hint)}, got {show(value)}".lstrip()


def _other_kind(
    kind: type[BaseModel], kinds: Mapping[str, type[BaseModel]], chosen: str, key: str
) -> str:
    """Describe a setting of other kinds of the section; empty if it is of none."""
    owners = ", ".join(name for name, each in kinds.items() if key in each.model_fields)
    shared = set.intersection(*(set(each.model_fields) for each in (kind, *kinds.values())))
    own = ", ".join(name for name in kind.model_fields if name not in shared)
    problem = f"kind {chosen} has {own or 'no settings of its own'}"
    return owners and f"is a setting of kind {owners}; {problem}"


def _unknown(kind: type[BaseModel], root: type[BaseModel], path: Path, value: Any) -> str:
    """Describe an unknown key, with the closest key of its section or its place elsewhere."""
    key = path[-1]
    if key == PRESET and (presets := getattr(kind, "presets", None)):
        return f"is not a preset; {did_you_mean(str(value), presets())}"
    near = did_you_mean(key, kind.model_fields)
    elsewhere = [".".join(each) for each in _keys(root) if each[-1] == key and each != path]
    if elsewhere and not (near.startswith("did you mean") and path[1:]):
        nearest = get_close_matches(".".join(path), elsewhere, n=_SHOWN_KEYS, cutoff=0)
        near = f"did you mean {' or '.join(map(repr, nearest))}?"
    return f"is unknown; {near}"


def _keys(kind: type[BaseModel], prefix: Path = ()) -> Iterator[Path]:
    """Yield every key that is not inside a list or mapping."""
    for name, field in kind.model_fields.items():
        yield (*prefix, name)
        section = without_none(field.annotation)
        if isinstance(section, type) and issubclass(section, BaseModel):
            for each in kinds_of(section).values() or [section]:
                yield from _keys(each, (*prefix, name))


def _depth(tree: Any, path: Path) -> int:
    """Count how many keys of the path exist in the tree."""
    for depth, key in enumerate(path):
        if (tree := value_at(tree, key, _MISSING)) is _MISSING:
            return depth
    return len(path)
