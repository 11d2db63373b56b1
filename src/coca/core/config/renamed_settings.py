"""Names that settings had in earlier versions: files with them are read as if written today.

A configuration lists its renamed fields in `renamed_keys`, and renamed values of a field in
`renamed_values`; both are class variables of `coca.core.config.frozen_config.Config`.
"""

from collections.abc import Mapping
from typing import Any

from coca.core.errors import ConfigError


def with_current_names(kind: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a section with the current names of keys and values.

    Args:
        kind: Configuration class of the section.
        section: Settings as read from a recipe or a saved file.

    Raises:
        ConfigError: A setting is given under both of its names.
    """
    keys, values = _tables(kind)
    current: dict[str, Any] = {}
    for key, value in section.items():
        name = keys.get(key, key)
        if name in current or (name != key and name in section):
            old = next(old for old, new in keys.items() if new == name)
            raise ConfigError(f"{name} must be given once, got also {old}, its earlier name")
        known = values.get(name, {})
        current[name] = known.get(value, value) if isinstance(value, str) else value
    return current


def with_first_names(kind: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a section with the names that the first version wrote.

    Hashes of settings are taken of these, so that a new name leaves a model its fingerprint.
    """
    keys, values = _tables(kind)
    first = {new: old for old, new in keys.items()}
    back = {name: {new: old for old, new in each.items()} for name, each in values.items()}
    return {
        first.get(name, name): back.get(name, {}).get(value, value)
        if isinstance(value, str)
        else value
        for name, value in section.items()
    }


def _tables(kind: type) -> tuple[Mapping[str, str], Mapping[str, Mapping[str, str]]]:
    return getattr(kind, "renamed_keys", {}), getattr(kind, "renamed_values", {})
