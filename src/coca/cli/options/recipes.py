"""Recipe arguments of a command line: YAML files and overrides `section.field=value`."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import coca
from coca.core.config.frozen_config import Config, load_config
from coca.core.errors import ConfigError, did_you_mean
from coca.core.files.local_files import check_spaces

C = TypeVar("C", bound=Config)

_CHANGE = re.compile(r"[\w.]+=")


@dataclass(frozen=True)
class Settings:
    """Recipes in the order given, and overrides."""

    recipes: tuple[str, ...]
    changes: tuple[str, ...]

    @classmethod
    def of(
        cls, words: Sequence[str], *, folder: str = "", names: Collection[str] = ()
    ) -> "Settings":
        """Split arguments into `recipe.yaml` and `field=value`."""
        check_spaces(words)
        changes = tuple(
            word for word in words if _CHANGE.match(word) is not None and not Path(word).exists()
        )
        recipes = [word for word in words if word not in changes]
        return cls(tuple(it if it in names else recipe_path(it, folder) for it in recipes), changes)


def recipe_path(name: str, preferred: str = "") -> str:
    """Return the path of a recipe: of the package for `recipe:NAME`, else the name itself."""
    kind, colon, wanted = name.partition(":")
    if kind != "recipe" or not colon:
        if not Path(name).exists() and (alike := _shipped_as(name, preferred)):
            raise ConfigError(f"{name} does not exist; the package has {' and '.join(alike)}")
        return name
    folder = shipped_recipes()
    known = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")
    }
    wanted = wanted.removesuffix(".yaml")
    found = [one for one in sorted(known) if wanted in (one, one.rpartition("/")[2])]
    if f"{preferred}/{wanted}" in found:
        return str(known[f"{preferred}/{wanted}"])
    if len(found) == 1:
        return str(known[found[0]])
    if found:
        choices = " or ".join(f"recipe:{one}" for one in found)
        raise ConfigError(f"the package has several recipes named {wanted!r}: {choices}")
    near = did_you_mean(wanted, {one if "/" in wanted else one.rpartition("/")[2] for one in known})
    raise ConfigError(f"the package has no recipe {wanted!r}; {near}")


def _shipped_as(name: str, preferred: str) -> list[str]:
    """Return the names `recipe:FOLDER/NAME` of shipped recipes with the name of a missing file."""
    path = Path(name)
    if path.suffix not in ("", ".yaml", ".yml") or not path.stem:
        return []
    folder = shipped_recipes()
    found = sorted(one.relative_to(folder) for one in folder.rglob(f"{path.stem}.yaml"))
    wanted = path.parent.name or preferred
    exact = [one for one in found if one.parent.name == wanted]
    return [f"recipe:{one.with_suffix('').as_posix()}" for one in exact or found]


def shipped_recipes() -> Path:
    """Return the folder of the recipes: in the package, or in the clone of an installation."""
    package = Path(coca.__file__).parent
    for folder in (package / "recipes", package.parent.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"there are no recipes in {package}; give the path of a YAML file")


def load(kind: type[C], settings: Settings, *, find_data: bool = False) -> C:
    """Load a configuration from recipes and overrides; arguments as of `load_config`."""
    if not settings.recipes:
        raise ConfigError(
            "no recipe is given: give a YAML file, or a recipe of the package such as recipe:emoji"
        )
    recipes = map(Path, settings.recipes)
    return load_config(kind, *recipes, overrides=settings.changes, find_data=find_data)


def for_all_tasks(tasks: int, changes: Sequence[str]) -> list[str]:
    """Apply overrides to every task of a file; `data_root` applies to the file itself."""
    of_file = [change for change in changes if change.startswith("data_root=")]
    of_tasks = [change for change in changes if change not in of_file]
    return of_file + [f"tasks.{number}.{change}" for change in of_tasks for number in range(tasks)]
