"""Registry: factories by name, of this package, of installed plug-ins and of a single file.

Installed plug-ins declare names (`coca.core.plugins`); the object of a name is imported when it
is first looked up. A single file registers by decorators: `load_plugin_file`, the option `--plugin`
of the command line.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from coca.core import plugins
from coca.core.errors import ConfigError, did_you_mean

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """A registry of factories of one kind.

    Args:
        kind: What an entry is, for error messages.
        point: Extension point of `coca.core.plugins.Plugin` that adds to it; empty: none.
        added: Class of what plug-ins add; None: functions and classes.

    Example:
        >>> SOURCES: Registry[Callable[[str], list[str]]] = Registry("data source")
        >>> @SOURCES.register("words")
        ... def words(text: str) -> list[str]:
        ...     return text.split()
        >>> SOURCES.get("words")("a cat")
        ['a', 'cat']
    """

    def __init__(self, kind: str, point: str = "", added: type | None = None) -> None:
        self.kind = kind
        self.point = point
        self.added = added
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
            ConfigError: The name is registered neither by this package nor by a plug-in, or what a
                plug-in adds cannot be imported.
        """
        if name not in self._entries:
            if not self.point or name not in plugins.declared(self.point):
                near = did_you_mean(name, self.names())
                broken = [
                    f"plug-in {it} is left out: {why}"
                    for it, why in plugins.installed().broken.items()
                ]
                raise ConfigError("; ".join([f"unknown {self.kind} {name!r}; {near}", *broken]))
            self._entries[name] = plugins.imported(self.point, name, self.added)
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """List all names, sorted, including those that plug-ins declare."""
        added = plugins.declared(self.point) if self.point else ()
        return tuple(sorted({*self._entries, *added}))


PLUGIN_FILES: dict[Path, str] = {}
"""Files that `load_plugin_file` has imported in this process, with their SHA-256."""


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
        PLUGIN_FILES[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:
        raise ConfigError(f"the plugin {path} cannot be loaded ({error!r})") from error
