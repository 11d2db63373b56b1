"""The model shipped in this package: its name, fingerprint and folder in `coca/weights`."""

from importlib import resources
from pathlib import Path

DEFAULT_MODEL = "everyday"
"""Name of the model that `coca.load` and all commands use by default."""

FINGERPRINTS = {"everyday": "fdda72299799afb71a53b0e4"}
"""Fingerprints of the models; `coca.load` refuses a model of another fingerprint as damaged."""


def shipped() -> dict[str, Path]:
    """Return the models shipped with this package: names to folders."""
    home = Path(str(resources.files("coca") / "weights"))
    return {file.parent.name: file.parent for file in sorted(home.glob("*/config.json"))}


def is_shipped(name: str | Path) -> bool:
    """Return whether a name is that of a shipped model; an existing path takes precedence."""
    return str(name) in shipped() and not Path(name).exists()
