"""Names to makers: the one way in which this package is extended.

A package outside the tree lists a module under the entry-point group `coca.plugins`; importing
that module runs its `register` lines. Plugins load once, when a name is first not found or when
all names are asked for.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from coca.core.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

T = TypeVar("T")
Registered = TypeVar("Registered")

PLUGIN_GROUP = "coca.plugins"


class Registry(Generic[T]):
    """A table of makers of one kind.

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
        """A decorator that files what it decorates under `name` and returns it unchanged.

        Raises:
            ValueError: The name is taken; two makers of one name would depend on import order.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already: {self._entries[name]!r}")

        def file(entry: Registered) -> Registered:
            # A second type variable, so that a decorated class keeps its own type.
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return file

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            ConfigError: Neither this package nor a plugin registers the name.
        """
        if name not in self._entries:
            broken = _load_plugins()
            if name not in self._entries:
                near = did_you_mean(name, self._entries)
                raise ConfigError("; ".join([f"unknown {self.kind} {name!r}; {near}", *broken]))
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted, those of plugins included."""
        _load_plugins()
        return tuple(sorted(self._entries))


@cache
def _load_plugins() -> tuple[str, ...]:
    """Import every plugin once; returns a sentence for each that cannot be imported."""
    broken = []
    for plugin in entry_points(group=PLUGIN_GROUP):
        try:
            plugin.load()
        except Exception as error:
            # A stranger's fault must not stop a run that does not need the plugin.
            broken.append(f"plugin {plugin.name!r} cannot be loaded ({error!r})")
            logger.warning("%s", broken[-1])
    return tuple(broken)
