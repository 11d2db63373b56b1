"""Version of a build: a development version ends with the time of its commit.

pip replaces an installed package only by a wheel of a later version, and most wheels are built
between two releases. The time of a commit grows along the main branch. Unlike the number of
commits, it is known in a shallow clone, and in an archive of git by the attribute `export-subst`.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent.parent
ARCHIVED = "$Format:%ct$"
"""Seconds since 1970 of the commit in an archive of git; elsewhere as it is here."""


def build_version() -> str:
    """Return the version of `coca/__init__.py`, for a development version with its commit's time.

    A source distribution keeps the version that it was built with.
    """
    if (ROOT / "PKG-INFO").exists():
        return _matched(r"^Version: (.+)$", ROOT / "PKG-INFO")
    source = _matched(r'^    __version__ = "(.+)"$', ROOT / "src" / "coca" / "__init__.py")
    stem, development, _ = source.partition(".dev")
    return f"{stem}.dev{_commit_time() or 0}" if development else source


def _matched(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path} has no line {pattern}"
    return found[1]


def _commit_time() -> str:
    if ARCHIVED.isdigit():
        return ARCHIVED
    # Not the repository of a folder above.
    if not (ROOT / ".git").exists():
        return ""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


class WheelVersion(BuildHookInterface):
    """Write the version into a wheel, as `coca/_build.py`; an editable installation has none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file before the wheel is written; `version` is `standard` or `editable`."""
        if version == "standard" and self.target_name == "wheel":
            self._folder = tempfile.TemporaryDirectory()
            path = Path(self._folder.name) / "_build.py"
            line = f'"""Version of this build."""\n\n__version__ = "{self.metadata.version}"\n'
            path.write_text(line, encoding="utf-8")
            build_data["force_include"][str(path)] = "coca/_build.py"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
