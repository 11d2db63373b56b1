"""Rows of the settings reference, which `coca config keys` prints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from coca.core.config.fields import (
    KIND,
    PRESET,
    hint_of,
    kinds_of,
    one_of,
    section_of,
    show,
    text_of,
    words,
)
from coca.core.config.frozen_config import to_dict


@dataclass(frozen=True, kw_only=True)
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


def describe(
    kind: type[BaseModel], prefix: str = "", *, base: BaseModel | None = None
) -> Iterator[Setting]:
    """Yield every setting of a configuration class, in the order of its fields."""
    if kinds := kinds_of(kind):
        yield from _describe_kinds(kinds, prefix, base=base)
        return
    if presets := getattr(kind, "presets", None):
        text = "The settings to start from; the other keys of this section change them."
        yield Setting(key=f"{prefix}{PRESET}", type=one_of(presets()), default="null", text=text)
    for name, field in kind.model_fields.items():
        key, hint = prefix + name, hint_of(field)
        default = field.get_default(call_default_factory=True)
        value = default if base is None else getattr(base, name)
        section, index = section_of(hint)
        if section:
            start = value if isinstance(value, BaseModel) else None
            yield from describe(section, f"{key}{index}.", base=start)
        else:
            required = base is None and field.is_required()
            shown = None if required else show(to_dict(value))
            yield Setting(key=key, type=words(hint), default=shown, text=text_of(field))


def _describe_kinds(
    kinds: Mapping[str, type[BaseModel]], prefix: str, *, base: Any
) -> Iterator[Setting]:
    """Yield the settings that all kinds share, then those of some kinds."""
    rows: dict[Setting, list[str]] = {}
    for name, kind in kinds.items():
        for row in describe(kind, prefix, base=base if type(base) is kind else None):
            rows.setdefault(row, []).append(name)
    shared = set.intersection(*(set(kind.model_fields) for kind in kinds.values()))
    first = next(iter(kinds)) if base is None else base.kind
    default = None if base is None else show(base.kind)
    for row, names in rows.items():
        name = row.key.removeprefix(prefix).partition(".")[0]
        if name == KIND and first in names:
            yield replace(row, type=one_of(kinds), default=default)
        elif name in shared and first in names:
            yield row
    for row, names in rows.items():
        if row.key.removeprefix(prefix).partition(".")[0] not in shared:
            yield replace(row, kinds=tuple(names))
