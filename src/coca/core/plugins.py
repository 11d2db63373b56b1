"""Plug-ins: what a package adds to `coca`, declared under the entry-point group `coca.plugins`.

A declaration is text only. What it names is imported when it is first used, so that an installed
plug-in costs nothing until then. The parts in `coca.experimental` are declared in the same way as
those of other packages (docs/plugins.md).
"""

import importlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, NamedTuple

from coca.core.errors import ConfigError
from coca.core.installation import NAME, pip_install

logger = logging.getLogger(__name__)

PLUGIN_GROUP = "coca.plugins"
"""Group of the entry points."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """What a plug-in adds: each field but the first three is an extension point.

    An extension point maps a name to what it is, as `"module:attribute"`.
    """

    adds: str
    """What the plug-in adds, in one sentence."""
    needs: tuple[str, ...] = ()
    """Modules that must be installed."""
    install: str = ""
    """What pip installs to get them, such as `coca-captioners[detection]`; default: the first."""

    commands: Mapping[str, str] = field(default_factory=dict)
    """Commands of `coca`: a function as Typer takes it, or a `typer.Typer`."""
    routes: Mapping[str, str] = field(default_factory=dict)
    """Routes of `coca serve`: a `fastapi.APIRouter`; a route without a key for each request has the
    class `coca.server.routes.tenants.KeyedRoute`."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Models by the prefix of their name, such as `clap` for `clap:NAME`: a
    `coca.predict.model_kinds.ModelKind`."""
    exporters: Mapping[str, str] = field(default_factory=dict)
    """Formats of `coca export`: a `coca.release.export.Exporter`."""
    trackers: Mapping[str, str] = field(default_factory=dict)
    """Trackers of a run: run folder -> `coca.train.tracker.Tracker`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Data sources: a `coca.data.sources.source.SourceKind`."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Downstream tasks: a `coca.tasks.Task`."""
    losses: Mapping[str, str] = field(default_factory=dict)
    """Contrastive losses: (`Embedded`, `LossConfig`) -> `ContrastiveOutput`."""
    auxiliary_losses: Mapping[str, str] = field(default_factory=dict)
    """Kinds of `loss.auxiliary`: a subclass of `coca.train.losses.AuxiliaryLoss`."""
    image_encoders: Mapping[str, str] = field(default_factory=dict)
    """Image encoders: a subclass of `coca.model.encoders.encoder.ImageEncoder`."""
    optimizers: Mapping[str, str] = field(default_factory=dict)
    """Optimizers: (parameter groups, config) -> torch optimizer."""
    schedules: Mapping[str, str] = field(default_factory=dict)
    """Learning rate schedules: progress after the warmup, 0 to 1 -> factor, 0 to 1."""
    augmentations: Mapping[str, str] = field(default_factory=dict)
    """Steps of `data.augment.extra`: (pixels, generator) -> pixels."""
    decoders: Mapping[str, str] = field(default_factory=dict)
    """Files that are not images, by their suffix: a `coca.processing.image_file.FileDecoder`."""
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    """Tokenizers: (texts, vocabulary size, lower case) -> tokenizer of the package `tokenizers`."""

    def __post_init__(self) -> None:
        for point in POINTS:
            for name, target in self.names(point).items():
                if not (isinstance(target, str) and re.fullmatch(r"[\w.]+:\w+", target)):
                    raise ConfigError(f"{name!r} of {point} must be module:name, got {target!r}")

    def missing(self) -> tuple[str, ...]:
        """List the modules of `needs` that are not installed."""
        return tuple(name for name in self.needs if not _is_installed(name))

    def remedy(self) -> str:
        """Format the pip command that installs what is missing."""
        extras = self.install.removeprefix(f"{NAME}[").removesuffix("]")
        if self.install == f"{NAME}[{extras}]":
            return pip_install(extras)
        return f"pip install '{self.install or self.missing()[0]}'"

    def names(self, point: str) -> Mapping[str, str]:
        """Return what the plug-in adds to one extension point."""
        names: Mapping[str, str] = getattr(self, point)
        return names


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # A parent of the module is missing.
        return False


POINTS = tuple(each.name for each in fields(Plugin) if each.default_factory is dict)
"""Names of the extension points."""


class Plugins(NamedTuple):
    """The installed plug-ins."""

    found: Mapping[str, Plugin]
    """Name of the entry point -> the plug-in, sorted by name."""
    broken: Mapping[str, str]
    """Name of the entry point -> why it cannot be read."""


@cache
def installed() -> Plugins:
    """Read the declarations of all installed plug-ins, once; a broken one stops nothing else."""
    found: dict[str, Plugin] = {}
    broken: dict[str, str] = {}
    for entry in sorted(entry_points(group=PLUGIN_GROUP), key=lambda entry: entry.name):
        try:
            plugin = entry.load()
        except (Exception, SystemExit) as error:
            broken[entry.name] = f"it cannot be imported ({error!r})"
            continue
        if entry.name in found:
            broken[entry.name] = f"two packages have a plug-in of this name ({entry.value})"
        elif isinstance(plugin, Plugin):
            found[entry.name] = plugin
        else:
            broken[entry.name] = f"{entry.value} must be a coca.core.plugins.Plugin, got {plugin!r}"
    for name, reason in broken.items():
        logger.warning("plug-in %s is left out: %s", name, reason)
    return Plugins(found, broken)


def declared(point: str) -> dict[str, str]:
    """Return the names that plug-ins add to an extension point, each with what it is."""
    return {
        name: target
        for plugin in installed().found.values()
        for name, target in plugin.names(point).items()
    }


def imported(point: str, name: str, kind: type | None) -> Any:
    """Import what a plug-in adds to an extension point under a name.

    Raises:
        ConfigError: Two plug-ins add the name, a module is missing, the import fails, or gives
            neither an object of the kind nor, without one, a function or class.
    """
    adding = [it for it in installed().found.items() if name in it[1].names(point)]
    (title, plugin), *others = adding
    if others:
        raise ConfigError(
            f"plug-ins {title} and {others[0][0]} both add {name!r} to {point}: uninstall one"
        )
    if missing := plugin.missing():
        raise ConfigError(f"{name} needs {', '.join(missing)}: {plugin.remedy()}")
    module, _, attribute = plugin.names(point)[name].partition(":")
    try:
        added = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} of plug-in {title} cannot be imported ({error!r})") from error
    if not (callable(added) if kind is None else isinstance(added, kind)):
        wanted = "a function or class" if kind is None else f"of the class {kind.__name__}"
        raise ConfigError(f"{name} of plug-in {title} must be {wanted}, got {added!r}")
    return added
