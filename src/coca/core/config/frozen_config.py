"""Typed configuration: YAML layers and overrides, validated into frozen dataclasses.

Importing pydantic takes 0.05 s. So it is imported by the first check, and configurations whose
fields are options of a command use `annotated_types`, which pydantic reads too: `Annotated[int,
Ge(1)]`.

A configuration is a frozen, keyword-only dataclass. A field whose type is such a dataclass is a
section. All errors are collected in one `ConfigError`, one line each: the dotted key, the expected
type and range, and the value; see `coca.core.config.frozen_config.Config`.

A section whose class has a classmethod `kinds()` is of one of several subclasses: its key `kind`
chooses one, as in pydantic's discriminated unions, and each has settings of its own.

A section whose class has a classmethod `presets()` may name a preset: `model: {preset: tiny,
width: 64}` starts from the preset and changes the width; `model: tiny` is the unchanged preset.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, get_origin

from annotated_types import Interval

from coca.core.config import docs
from coca.core.errors import ConfigError, did_you_mean

# Base class of configurations: the type of a field declares its range.


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
    checks_types: ClassVar[bool] = False
    """Whether fields without a range are checked as well: for values from callers in Python."""

    def __post_init__(self) -> None:
        kind: type = type(self)
        faults = []
        for name, hint, check in _checked_fields(kind, self.checks_types):
            given = getattr(self, name)
            value = _plain_number(given)
            if value is not given:
                object.__setattr__(self, name, value)
            try:
                check.validate_python(value, strict=True)
            except ValueError:  # the error class of pydantic is one
                wanted = docs.words(docs.without_none(hint) if self.checks_types else hint)
                faults.append(f"{name} must be {wanted}, got {docs.show(value)}")
        if faults:
            raise self.range_error("; ".join(faults))


@cache
def _checked_fields(kind: type, every: bool) -> tuple[tuple[str, Any, Any], ...]:
    """List the checked fields of a class: name, type and validator."""
    return tuple(
        (name, hint, validator(without_items(hint)))
        for name, hint in docs.field_types(kind).items()
        if every or docs.is_restricted(hint)
    )


def without_items(hint: Any) -> Any:
    """Return the type of a collection of sections without its items; they are validated before."""
    inner = docs.without_none(hint)
    bare = docs.without_range(inner)
    if docs.item_section(bare) is None:
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


T = TypeVar("T")

_SHOWN_KEYS = 3

_INVALID: Any = object()  # sentinel of a value whose error is already recorded


def load_config(
    kind: type[T], *layers: Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> T:
    """Merge recipes, mappings and overrides into one validated configuration; later ones win."""
    # Imports YAML, which classes of configurations do not need.
    from coca.core.config.recipe import DATA_ROOT, fill_in, merge, parse_override, read_recipe

    read: list[tuple[str, docs.Tree]] = []
    faults: list[str] = []
    for layer in layers:
        if isinstance(layer, Mapping):
            read.append(("given in code", docs.to_plain(layer)))
        else:
            try:
                read.append((f"in {layer}", read_recipe(layer)))
            except ConfigError as error:
                faults.append(str(error))
    layer_missing = bool(faults)
    for text in overrides:
        try:
            read.append((f"override {text}", parse_override(text)))
        except ConfigError as error:
            faults.append(str(error))
    if layer_missing:
        # Other errors may be due to the missing layer.
        raise ConfigError("\n".join(faults))
    tree: Any = {}
    for _, layer in read:
        tree = merge(tree, layer)
    given = any(DATA_ROOT in layer for name, layer in read if name.startswith("override "))
    try:
        tree = fill_in(tree, given=given)
    except ConfigError as error:
        raise ConfigError("\n".join([*faults, str(error)])) from None
    return _build(kind, tree, read, faults)


def from_dict(kind: type[T], mapping: Mapping[str, Any], *, source: str) -> T:
    """Build the configuration that `to_dict` wrote; `source` identifies it in errors."""
    tree = docs.to_plain(mapping)
    return _build(kind, tree, [(f"in {source}", tree)], [])


def to_dict(config: Any) -> docs.Tree:
    """Convert a configuration to JSON-serializable values, including all defaults."""
    tree: docs.Tree = docs.to_plain(config)
    return tree


def digest(config: Any) -> str:
    """Hash a configuration to 16 hex digits; equal configurations have equal digests."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_options(given: Iterable[str], known: Iterable[str], *, of: str) -> None:
    """Reject unknown keyword arguments, which a call would ignore or raise a TypeError for."""
    names = list(known)
    for name in given:
        if name not in names:
            raise ConfigError(f"{of} has no option {name!r}; {did_you_mean(name, names)}")


def non_default(config: Any) -> docs.Tree:
    """Return the settings that differ from their defaults, as JSON-serializable values.

    Unlike `to_dict`, the result does not change when a later version adds a setting with a default.
    """
    tree: docs.Tree = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == docs.default_of(field):
            continue
        nested = dataclasses.is_dataclass(value)
        tree[field.name] = non_default(value) if nested else docs.to_plain(value)
    return tree


def _build(
    kind: type[T], tree: docs.Tree, layers: list[tuple[str, docs.Tree]], faults: list[str]
) -> T:
    check = _Check(kind, layers, faults)
    config: T = check.section(kind, tree, (), base=None)
    if check.faults:
        raise ConfigError("\n".join(check.faults))
    return config


class _Check:
    """Validator that builds a configuration from a merged tree and collects all errors."""

    def __init__(self, kind: type, layers: list[tuple[str, docs.Tree]], faults: list[str]) -> None:
        self.kind = kind
        self.layers = layers
        self.faults = faults
        # Missing keys may be in a layer that could not be read.
        self.complete = not faults

    def section(self, kind: type, given: Any, path: tuple[str, ...], *, base: Any) -> Any:
        """Build an instance of `kind` from the given keys over `base` or the class defaults."""
        has_presets = hasattr(kind, "presets")
        if isinstance(given, str) and has_presets:
            base, given = self.preset(kind, given, path), {}
        if not isinstance(given, dict):
            return self.misfit(path, given, kind)
        kinds = docs.kinds_by_name(kind)
        if kinds:
            kind_name = self.kind_of(kinds, given, path, base=base)
            if kind_name is _INVALID:
                return _INVALID
            given = self.of_kind(kinds, kind_name, given, path, base=base)
            kind = kinds[kind_name]
            # The settings of another kind mean nothing here.
            base = base if base is _INVALID or isinstance(base, kind) else None
        if has_presets and given.get("preset") is not None:
            base = self.preset(kind, given["preset"], (*path, "preset"))
        values = {}
        for field in dataclasses.fields(kind):
            name, hint, at = field.name, docs.field_types(kind)[field.name], (*path, field.name)
            if base is _INVALID:  # unknown preset: validate only the given keys
                start = _INVALID
            else:
                start = docs.default_of(field) if base is None else getattr(base, name)
            if name in given:
                values[name] = self.value(hint, given[name], at, base=start)
            elif start is not dataclasses.MISSING:
                values[name] = start
            else:
                values[name] = _INVALID
                if self.complete:
                    self.faults.append(f"{'.'.join(at)} is missing; it must be {docs.words(hint)}")
        for key in given:
            if key in values or (has_presets and key == "preset"):
                continue
            if owners := [name for name, each in kinds.items() if key in docs.field_types(each)]:
                allowed = docs.settings_of(kind_name, kinds)
                problem = f"is a setting of kind {', '.join(owners)}; {allowed}"
                self.fault((*path, key), given[key], problem)
            else:
                self.unknown(kind, key, given[key], path)
        if any(value is _INVALID for value in values.values()):
            return _INVALID
        try:
            return kind(**values)
        except (ConfigError, ValueError) as error:  # raised by __post_init__
            self.faults.append(": ".join(filter(None, (".".join(path), str(error)))))
            return _INVALID

    def value(self, hint: Any, given: Any, path: tuple[str, ...], *, base: Any) -> Any:
        """Validate the value of a field; `base` is its value without a recipe."""
        inner = docs.without_none(hint)
        if given is None and inner is not hint:
            return None
        if docs.is_section(inner):
            start = base if docs.is_section(type(base)) or base is _INVALID else None
            return self.section(inner, given, path, base=start)
        bare = docs.without_range(inner)
        item = docs.item_section(bare)
        if item is not None and isinstance(given, dict if get_origin(bare) is dict else list):
            return self.items(hint, item, given, path)
        try:
            # Strict JSON mode fits YAML: a list may become a tuple and a string a path, but "5" is
            # not a number, true is not 1, and infinity is rejected.
            return validator(hint).validate_json(json.dumps(given), strict=True)
        except (ValueError, TypeError):
            return self.misfit(path, given, hint)

    def items(self, hint: Any, item: type, given: Any, path: tuple[str, ...]) -> Any:
        """Validate a list, tuple or dict of sections."""
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        built = {key: self.section(item, it, (*path, str(key)), base=None) for key, it in pairs}
        if any(value is _INVALID for value in built.values()):
            return _INVALID
        outer = get_origin(docs.without_range(docs.without_none(hint)))
        whole = built if outer is dict else outer(built.values())
        try:
            return validator(without_items(hint)).validate_python(whole, strict=True)
        except ValueError:  # the error class of pydantic is one
            return self.misfit(path, given, hint)

    def kind_of(
        self, kinds: Mapping[str, type], given: docs.Tree, path: tuple[str, ...], *, base: Any
    ) -> Any:
        """Return the name of the kind: that of the key `kind`, or else of `base`."""
        at, name = (*path, docs.KIND), given.get(docs.KIND, getattr(base, docs.KIND, None))
        if isinstance(name, str) and name in kinds:
            return name
        if docs.KIND in given:
            return self.fault(at, name, f"is unknown; {did_you_mean(str(name), kinds)}")
        if base is _INVALID:  # unknown preset
            return next(iter(kinds))
        self.faults.append(f"{'.'.join(at)} is missing; it must be {docs.one_of(kinds)}")
        return _INVALID

    def of_kind(
        self,
        kinds: Mapping[str, type],
        name: str,
        given: docs.Tree,
        path: tuple[str, ...],
        *,
        base: Any,
    ) -> docs.Tree:
        """Drop the settings of another kind, if a later layer than theirs chooses this kind.

        Settings of both kinds are kept, unless this kind has its own default for them.
        """
        if docs.KIND not in given:
            return given
        chosen = self.layer_of((*path, docs.KIND))
        earlier = [
            found for _, tree in self.layers[:chosen] if (found := _at(tree, (*path, docs.KIND)))
        ]
        before = [*earlier, getattr(base, docs.KIND, None), next(iter(kinds))]
        previous = next(one for one in reversed(before[: len(earlier)] or before) if one in kinds)
        if previous == name:
            return given
        old, new = (
            {field.name: docs.default_of(field) for field in dataclasses.fields(kinds[one])}
            for one in (previous, name)
        )
        replaced = {
            key
            for key in given
            if key != docs.KIND
            and self.layer_of((*path, key)) < chosen
            and key in old
            and (key not in new or (new[key] is not dataclasses.MISSING and new[key] != old[key]))
        }
        return {key: value for key, value in given.items() if key not in replaced}

    def preset(self, kind: Any, name: Any, path: tuple[str, ...]) -> Any:
        """Return the preset that a section starts from."""
        presets = kind.presets()
        if isinstance(name, str) and name in presets:
            return presets[name]
        return self.fault(path, name, f"is not a preset; {did_you_mean(str(name), presets)}")

    def unknown(self, kind: type, key: str, value: Any, path: tuple[str, ...]) -> None:
        """Record an unknown key, with the closest key here or its path in another section."""
        near = did_you_mean(key, docs.field_types(kind))
        own = ".".join((*path, key))  # a setting of another kind
        elsewhere = [
            dotted
            for dotted in dict.fromkeys(_dotted_keys(self.kind))
            if dotted.split(".")[-1] == key and not f"{own}.".startswith(f"{dotted}.")
        ]
        if elsewhere and not (near.startswith("did you mean") and path):
            shared = max(_shared(dotted.split("."), path) for dotted in elsewhere)
            nearest = [it for it in elsewhere if _shared(it.split("."), path) == shared]
            near = f"did you mean {' or '.join(map(repr, nearest[:_SHOWN_KEYS]))}?"
        self.fault((*path, key), value, f"is unknown; {near}")

    def misfit(self, path: tuple[str, ...], given: Any, hint: Any) -> Any:
        """Record a value of a wrong type or outside its range."""
        key = ".".join(path)
        problem = f"{key} must be {docs.words(hint)}, got {docs.show(given)}"
        self.faults.append(f"{problem} ({self.origin(path)})")
        return _INVALID

    def fault(self, path: tuple[str, ...], given: Any, problem: str) -> Any:
        """Record another error of a value."""
        self.faults.append(f"{'.'.join(path)} = {docs.show(given)} {problem} ({self.origin(path)})")
        return _INVALID

    def origin(self, path: tuple[str, ...]) -> str:
        """Return the layer that a value comes from."""
        return self.layers[self.layer_of(path)][0]

    def layer_of(self, path: tuple[str, ...]) -> int:
        """Return the position of the layer that a value comes from."""
        # The last layer with the longest match; `max` returns the first of equals.
        numbers = reversed(range(len(self.layers)))
        return max(numbers, key=lambda number: _depth(self.layers[number][1], path))


def _dotted_keys(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that is not inside a list."""
    for name, hint in docs.field_types(kind).items():
        yield prefix + name
        if docs.is_section(inner := docs.without_none(hint)):
            for each in docs.kinds_of(inner):
                yield from _dotted_keys(each, f"{prefix}{name}.")


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path of a tree; None if there is none."""
    for key in path:
        if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, dict):
            tree = tree.get(key)
        else:
            return None
    return tree


def _shared(keys: Sequence[str], path: Sequence[str]) -> int:
    """Count how many keys both begin with."""
    return next(
        (at for at, (one, other) in enumerate(zip(keys, path, strict=False)) if one != other),
        min(len(keys), len(path)),
    )


def _depth(tree: Any, path: tuple[str, ...]) -> int:
    """Count how many keys of the path exist in the tree."""
    for depth, key in enumerate(path):
        if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, dict) and key in tree:
            tree = tree[key]
        elif isinstance(tree, str) and key == "preset":
            return depth + 1
        else:
            return depth
    return len(path)
