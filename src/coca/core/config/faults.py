"""Errors of configurations: one line each with the key, the expected type and the value."""

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import takewhile
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from coca.core.config.sections import (
    KIND,
    PRESET,
    Tree,
    kinds_of,
    section_of,
    value_at,
)
from coca.core.config.words import hint_of, one_of, show, without_none, words
from coca.core.errors import did_you_mean

_SHOWN_KEYS = 3
_MISSING = object()

Path = tuple[str, ...]


class Faults:
    """Sentences for the errors of a configuration.

    Args:
        kind: Class of the configuration.
        tree: Values that were validated.
        layers: Origin and content of each recipe and override; none in Python.
        complete: Whether missing settings are errors.
    """

    def __init__(
        self,
        kind: type[BaseModel],
        tree: Any,
        layers: Sequence[tuple[str, Tree]] = (),
        *,
        complete: bool = True,
    ) -> None:
        self.kind = kind
        self.tree = tree
        self.layers = layers
        self.complete = complete

    def sentences(self, error: ValidationError) -> list[str]:
        """Return a sentence for each setting that has an error."""
        found: dict[Path, str] = {}
        for each in error.errors(include_url=False):
            path, sentence = self._sentence(each)
            found.setdefault(path, sentence)
        # A list is described by the errors of its items.
        inner = {path[:depth] for path in found for depth in range(1, len(path))}
        return [sentence for path, sentence in found.items() if sentence and path not in inner]

    def _sentence(self, error: ErrorDetails) -> tuple[Path, str]:
        """Return the keys of a setting, and the sentence; empty if it follows from another."""
        kind: type[BaseModel] = self.kind
        hint: Any = kind
        path: Path = ()
        value, keys, known_start = self.tree, list(error["loc"]), True
        while keys and isinstance(value, dict):
            kinds, kind_name = kinds_of(kind), str(value.get(KIND))
            kind = kinds.get(kind_name, kind)
            known_start = known_start and not (hasattr(kind, "presets") and PRESET in value)
            name = str(keys.pop(0))
            path, is_given, value = (*path, name), name in value, value.get(name)
            if (field := kind.model_fields.get(name)) is None:
                return path, self._unknown(kind, kinds, kind_name, path, value)
            hint = hint_of(field)
            if name == KIND and kinds and is_given:
                return path, self._about(
                    path, value, f"is unknown; {did_you_mean(str(value), kinds)}"
                )
            if not is_given:
                wanted = one_of(kinds) if name == KIND and kinds else words(hint)
                sentence = f"{'.'.join(path)} is missing; it must be {wanted}"
                return path, sentence if self.complete and known_start else ""
            if (section := section_of(hint)) is None:
                break
            kind = section
            if without_none(field.annotation) is section:
                hint = section
            elif keys:
                key, hint = keys.pop(0), section
                path, value = (*path, str(key)), value_at(value, str(key))
        key = ".".join(path)
        if error["type"] == "value_error":
            text = str(error["ctx"]["error"])
            return path, (f"{key}: {text}" if key else text) if known_start else ""
        allowed = f"must be {words(hint)}, got {show(value)}"
        return path, f"{key} {allowed}{self._origin(path)}".lstrip()

    def _unknown(
        self,
        kind: type[BaseModel],
        kinds: dict[str, type[BaseModel]],
        kind_name: str,
        path: Path,
        value: Any,
    ) -> str:
        """Return the sentence of an unknown key, with the closest key or its place elsewhere."""
        key = path[-1]
        if key == PRESET and (presets := getattr(kind, "presets", None)):
            # A section that is a text is its preset.
            given = self.layers[-1][1] if self.layers else {}
            at = path[:-1] if isinstance(reduce(value_at, path[:-1], given), str) else path
            return self._about(at, value, f"is not a preset; {did_you_mean(str(value), presets())}")
        if owners := [name for name, each in kinds.items() if key in each.model_fields]:
            shared = set.intersection(*(set(each.model_fields) for each in kinds.values()))
            own = ", ".join(name for name in kind.model_fields if name not in shared)
            problem = f"kind {kind_name} has {own or 'no settings of its own'}"
            return self._about(path, value, f"is a setting of kind {', '.join(owners)}; {problem}")
        near = did_you_mean(key, kind.model_fields)
        # Not the same key of another kind.
        dotted = dict.fromkeys(_keys(self.kind))
        elsewhere = [it for it in dotted if it[-1] == key and it != path[: len(it)]]
        if elsewhere and not (near.startswith("did you mean") and path[1:]):
            most = max(_shared(it, path) for it in elsewhere)
            nearest = [it for it in elsewhere if _shared(it, path) == most]
            near = " or ".join(repr(".".join(it)) for it in nearest[:_SHOWN_KEYS])
            near = f"did you mean {near}?"
        return self._about(path, value, f"is unknown; {near}")

    def _about(self, path: Path, value: Any, problem: str) -> str:
        return f"{'.'.join(path)} = {show(value)} {problem}{self._origin(path)}"

    def _origin(self, path: Path) -> str:
        """Return the last layer that has the longest part of a path."""
        if not self.layers:
            return ""
        depths = [(_depth(tree, path), at) for at, (_, tree) in enumerate(self.layers)]
        return f" ({self.layers[max(depths)[1]][0]})"


def _keys(kind: type[BaseModel], prefix: Path = ()) -> Iterator[Path]:
    """Yield every key that is not inside a list or mapping."""
    for name, field in kind.model_fields.items():
        yield (*prefix, name)
        section = without_none(field.annotation)
        if isinstance(section, type) and issubclass(section, BaseModel):
            for each in kinds_of(section).values() or [section]:
                yield from _keys(each, (*prefix, name))


def _shared(keys: Path, path: Path) -> int:
    """Count the keys that both begin with, without the last one of each."""
    pairs = zip(keys[:-1], path[:-1], strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _depth(tree: Any, path: Path) -> int:
    """Count how many keys of the path exist in the tree."""
    for depth, key in enumerate(path):
        if isinstance(tree, str) and key == PRESET:
            return depth + 1
        if (tree := value_at(tree, key, _MISSING)) is _MISSING:
            return depth
    return len(path)
