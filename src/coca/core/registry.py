"""Plugin registry: factories by name, extended through the entry-point group `coca.plugins`.

A plugin package lists a module under that group; importing the module runs its `register`
decorators. Plugins are loaded once: when a name is first not found, or when all names are listed.
A single file is a plugin, too: `load_plugin_file`, the option `--plugin` of the command line.
"""

import importlib
import logging
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from coca.core.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

T = TypeVar("T")
Registered = TypeVar("Registered")

PLUGIN_GROUP = "coca.plugins"


class Registry(Generic[T]):
    """A registry of factories of one kind.

    Example:
        >>> SOURCES: Registry[Callable[[str], list[str]]] = Registry("data source")
        >>> @SOURCES.register("words")
        ... def words(text: str) -> list[str]:
        ...     return text.split()
        >>> SOURCES.get("words")("a cat")
        ['a', 'cat']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Return a decorator that registers an object under `name` and returns it unchanged.

        Raises:
            ValueError: The name is already registered; the result would depend on import order.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already: {self._entries[name]!r}")

        def add(entry: Registered) -> Registered:
            # A second type variable, so that a decorated class keeps its type.
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return add

    def get(self, name: str) -> T:
        """Look up an entry by name.

        Raises:
            ConfigError: The name is registered neither by this package nor by a plugin.
        """
        if name not in self._entries:
            broken = _load_plugins()
            if name not in self._entries:
                near = did_you_mean(name, self._entries)
                raise ConfigError("; ".join([f"unknown {self.kind} {name!r}; {near}", *broken]))
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """List all names, sorted, including those of plugins."""
        _load_plugins()
        return tuple(sorted(self._entries))


def load_plugin_file(path: Path) -> None:
    """Import a Python file as a plugin, so that its `register` decorators run.

    It is imported by its own name, with its folder on `sys.path`: processes that load data import
    it in the same way.

    Raises:
        ConfigError: There is no such file, its name is that of another module, or it raises.
    """
    path = path.expanduser().absolute()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"the plugin {path} is not a Python file; give an existing file.py")
    if not path.stem.isidentifier():
        raise ConfigError(f"the plugin {path} cannot be imported: rename it to letters, digits, _")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = find_spec(path.stem)
    if spec is None or spec.origin is None or Path(spec.origin) != path:
        raise ConfigError(
            f"the plugin {path} has the name of another module, {path.stem}: rename the file"
        )
    try:
        importlib.import_module(path.stem)
    except Exception as error:
        raise ConfigError(f"the plugin {path} cannot be loaded ({error!r})") from error


@cache
def _load_plugins() -> tuple[str, ...]:
    """Import all plugins once; return an error message for each that cannot be imported."""
    broken = []
    for plugin in entry_points(group=PLUGIN_GROUP):
        try:
            plugin.load()
        except Exception as error:
            # A broken plugin must not stop a run that does not need it.
            broken.append(f"plugin {plugin.name!r} cannot be loaded ({error!r})")
            logger.warning("%s", broken[-1])
    return tuple(broken)
