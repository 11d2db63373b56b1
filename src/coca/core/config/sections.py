"""Structure of configurations: their sections, kinds, presets and plain trees."""

from typing import Any, TypeAlias, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Tree: TypeAlias = dict[str, Any]
"""Section of a configuration as plain types."""

KIND, PRESET = "kind", "preset"
"""Keys that choose the class of a section with `kinds()`, and the values that it starts from."""


def kinds_of(kind: Any) -> dict[str, type[BaseModel]]:
    """Return the result of a class's own `kinds()`; empty if it only inherits one, or has none."""
    return dict(kind.kinds()) if "kinds" in vars(kind) else {}


def section_of(hint: Any) -> type[BaseModel] | None:
    """Return the class of a section, or of the sections in a list or mapping; else None."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    return next(filter(None, map(section_of, get_args(hint))), None)


def is_mapping(hint: Any) -> bool:
    """Return whether a type is a dict, perhaps optional or with a range."""
    return get_origin(hint) is dict or any(map(is_mapping, get_args(hint)[:1]))


def default_of(field: FieldInfo) -> Any:
    """Return the default of a field; `PydanticUndefined` if it is required."""
    return field.get_default(call_default_factory=True)


def value_at(tree: Any, key: str, default: Any = None) -> Any:
    """Return the value of a key or of a position in a list; `default` if there is none."""
    if isinstance(tree, list):
        return tree[int(key)] if key.isdecimal() and int(key) < len(tree) else default
    return tree.get(key, default) if isinstance(tree, dict) else default
