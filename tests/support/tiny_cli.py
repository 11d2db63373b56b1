"""Runs of a command, in this process or in one of its own."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from typer.testing import Result

Run: TypeAlias = Callable[..., Result]
"""Runs a command; it must end with the given `code`, by default 0."""
RunJson: TypeAlias = Callable[..., Any]
"""Runs a command with --json, and returns what it printed."""
TRACED = """
import gc, sys
sys.argv[0] = "coca"
import coca.cli.app
try:
    coca.cli.app.main()
finally:
    print(gc.get_freeze_count(), *sys.modules, file=sys.stderr)
"""


def run_traced(*words: str) -> tuple[str, int, set[str]]:
    """Run a command in a new process.

    Returns its output, the number of objects that it froze, and the modules that it imported.
    """
    command = [sys.executable, "-c", TRACED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frozen, *modules = done.stderr.splitlines()[-1].split()
    return done.stdout, int(frozen), set(modules)
