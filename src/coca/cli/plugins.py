"""Command `coca plugins`."""

from coca.cli.console import Console
from coca.core import plugins as declarations
from coca.core.plugins import POINTS, Plugin


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
    return f"missing: {plugin.remedy()}" if missing else "installed"
