"""Types of the fixtures that run a command in this process."""

from collections.abc import Callable
from typing import Any, TypeAlias

from typer.testing import Result

Run: TypeAlias = Callable[..., Result]
"""Runs a command; it must end with the given `code`, by default 0."""
RunJson: TypeAlias = Callable[..., Any]
"""Runs a command with --json, and returns what it printed."""
