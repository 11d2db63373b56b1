"""Recipe arguments of a command line: YAML files and overrides `section.field=value`."""

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
    """Recipes in the order given, and overrides."""

    recipes: tuple[str, ...]
    changes: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> "Settings":
        """Split arguments into `recipe.yaml` and `field=value`."""
        changes = tuple(word for word in words if is_change(word))
        return cls(tuple(word for word in words if word not in changes), changes)


def is_change(word: str) -> bool:
    """Check whether an argument is `section.field=value` and not the name of a file."""
    return _CHANGE.match(word) is not None and not Path(word).exists()


def load(kind: type[T], settings: Settings) -> T:
    """Load a configuration from recipes and overrides.

    Raises:
        ConfigError: No recipe is given, or a setting is invalid.
    """
    from coca.core.config.serialization import load_config

    if not settings.recipes:
        raise ConfigError(
            "no recipe is given: name a YAML file, such as one of recipes/pretrain or "
            "recipes/finetune"
        )
    return load_config(kind, *map(Path, settings.recipes), overrides=settings.changes)


def for_all_tasks(tasks: int, changes: Sequence[str]) -> list[str]:
    """Apply overrides to every task of a file; `data_root` applies to the file itself."""
    of_file = [change for change in changes if change.startswith("data_root=")]
    of_tasks = [change for change in changes if change not in of_file]
    return of_file + [f"tasks.{number}.{change}" for change in of_tasks for number in range(tasks)]


def require_data_root(recipes: Sequence[str], changes: Sequence[str]) -> None:
    """Check that the local `data_root` of the merged recipes exists.

    Errors of recipes and overrides are left to the code that loads them.

    Raises:
        ConfigError: `data_root` is a local path that does not exist.
    """
    from coca.core.config.recipe import Tree, data_root_of, merge, parse_override, read_recipe

    tree: Tree = {}
    try:
        for recipe in recipes:
            tree = merge(tree, read_recipe(Path(recipe)))
        tasks = tree.get("tasks")
        given = for_all_tasks(len(tasks), changes) if isinstance(tasks, list) else changes
        for change in given:
            tree = merge(tree, parse_override(change))
    except ConfigError:
        return
    root = data_root_of(tree)
    if root is not None and "://" not in root and not Path(root).expanduser().exists():
        raise ConfigError(
            f"{', '.join(recipes)} reads its data from the folder {root}, which does not exist: "
            "set data_root=FOLDER; the comment at the top of the recipe names the download and the "
            "expected files"
        )


def has_section(settings: Settings, name: str) -> bool:
    """Check whether a recipe or an override sets a section; unreadable files are skipped."""
    import yaml

    if any(change.startswith((f"{name}.", f"{name}=")) for change in settings.changes):
        return True
    for recipe in settings.recipes:
        try:
            content = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # reported with its position when the recipe is loaded
        if isinstance(content, dict) and name in content:
            return True
    return False
