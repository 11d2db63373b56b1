"""Command `coca plugins`, and the commands that plug-ins add."""

import logging
from collections.abc import Callable
from typing import Any

import typer

from coca.cli.console import Console
from coca.cli.options.option_groups import Commands
from coca.core import plugins as declarations
from coca.core.errors import ConfigError
from coca.core.plugins import POINTS, Plugin
from coca.core.registry import Registry

logger = logging.getLogger(__name__)

COMMANDS: Registry[Callable[..., None] | typer.Typer] = Registry("command", "commands")

PANEL = "Plug-ins"
"""Title of the commands of plug-ins in the help."""


def plugin_command(name: str) -> Any:
    """Build a command that a plug-in adds, for the parser; None if no plug-in adds it."""
    if name not in COMMANDS.names():
        return None
    added = COMMANDS.get(name)
    root = Commands()
    if isinstance(added, typer.Typer):
        root.add_typer(added, name=name, rich_help_panel=PANEL)
    else:
        root.command(name, rich_help_panel=PANEL)(added)
    # With a callback, a single command does not become the root itself.
    root.callback()(lambda: None)
    return typer.main.get_command(root).commands[name]  # type: ignore[attr-defined]


def plugin_commands() -> list[str]:
    """List the commands that plug-ins add and that can be imported; others are logged."""
    names = []
    for name in COMMANDS.names():
        try:
            COMMANDS.get(name)
        except ConfigError as error:
            logger.debug("command %s is left out: %s", name, error)
            continue
        names.append(name)
    return names


def plugins(*, console: Console) -> None:
    """List the installed plug-ins: what each adds, and what is missing to use it."""
    found, broken = declarations.installed()
    rows = [[name, it.adds, _names(it), _state(it)] for name, it in found.items()]
    rows += [[name, "", "", reason] for name, reason in broken.items()]
    console.table(["plug-in", "adds", "names", "state"], rows)
    console.emit(
        [
            {
                "plugin": name,
                "adds": it.adds,
                "names": {point: sorted(it.names(point)) for point in POINTS if it.names(point)},
                "missing": list(it.missing()),
                "install": it.install if it.missing() else "",
            }
            for name, it in found.items()
        ]
        + [{"plugin": name, "broken": reason} for name, reason in broken.items()]
    )


def _names(plugin: Plugin) -> str:
    return "; ".join(
        f"{point.replace('_', ' ')}: {', '.join(sorted(names))}"
        for point in POINTS
        if (names := plugin.names(point))
    )


def _state(plugin: Plugin) -> str:
    missing = plugin.missing()
    return f"missing: pip install '{plugin.install or missing[0]}'" if missing else "installed"
