"""Recipes and changes to them, as they stand on a command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from coca.core.errors import ConfigError

T = TypeVar("T")

_CHANGE = re.compile(r"[\w.]+=")


@dataclass(frozen=True)
class Settings:
    """What was given: recipes in their order, and changes."""

    recipes: tuple[str, ...]
    changes: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> "Settings":
        """Part `recipe.yaml` from `field=value`."""
        changes = tuple(word for word in words if is_change(word))
        return cls(tuple(word for word in words if word not in changes), changes)


def is_change(word: str) -> bool:
    """Whether a word is `section.field=value`, and not the name of a file."""
    return _CHANGE.match(word) is not None and not Path(word).exists()


def load(kind: type[T], settings: Settings) -> T:
    """The configuration that recipes and changes describe.

    Raises:
        ConfigError: No recipe is given, or something in it is wrong.
    """
    from coca.core.config import load_config

    if not settings.recipes:
        raise ConfigError(
            "no recipe is given: name a YAML file, such as one of recipes/pretrain or "
            "recipes/finetune"
        )
    return load_config(kind, *map(Path, settings.recipes), overrides=settings.changes)


def has_section(settings: Settings, name: str) -> bool:
    """Whether a recipe or a change speaks of a section; files that cannot be read do not."""
    import yaml

    if any(change.startswith((f"{name}.", f"{name}=")) for change in settings.changes):
        return True
    for recipe in settings.recipes:
        try:
            content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # told, with the place, by whoever loads it
        if isinstance(content, dict) and name in content:
            return True
    return False
