"""What a command says and where: results on stdout, everything else on stderr."""

import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coca.core.progress import ProgressMaker, silent

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 200
"""Columns of a table that no terminal shows: wide enough to leave paths whole."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
"""The option that every command with a result has."""


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@dataclass(frozen=True)
class Console:
    """The voice of one command."""

    quiet: bool = False
    """Say nothing but results and errors."""
    json: bool = False
    """Give the result as JSON; words for people are left out."""

    @classmethod
    def current(cls, *, json: bool) -> "Console":
        """The voice that the options of `coca` itself ask for."""
        return cls(quiet=_quiet.get(), json=json)

    @property
    def progress(self) -> ProgressMaker:
        """Shows how far work is: a bar on a terminal, else a line from time to time."""
        if self.quiet or self.json:
            return silent
        from coca.cli.progress import LiveBars, lines

        return LiveBars() if sys.stderr.isatty() else lines

    def say(self, text: str) -> None:
        """A line of the result, for people."""
        if not self.json:
            typer.echo(text)

    def note(self, text: str) -> None:
        """A line on what is going on."""
        if not (self.quiet or self.json):
            _to_stderr(text)

    def complain(self, text: str) -> None:
        """A line on what went wrong without stopping the command."""
        tell_error(text)

    def emit(self, value: Any) -> None:
        """The result, for machines."""
        if self.json:
            typer.echo(json.dumps(value, indent=2))

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
    ) -> None:
        """A table of the result, for people.

        Args:
            header: Names of the columns.
            rows: Their cells.
            right: Columns of numbers, to stand at the right edge.
        """
        if self.json:
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(
                name, justify="right" if name in right else "left", overflow="fold", min_width=4
            )
        for row in rows:
            table.add_row(*map(_printable, row))
        typer.echo(_drawn(table))


def _printable(text: str) -> str:
    """Captions and names of files may hold what would break a line or command the terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _drawn(table: "Table") -> str:
    from rich.console import Console as RichConsole

    # Captions and paths are plain text: "[red]" in one is no colour.
    console = RichConsole(
        markup=False,
        emoji=False,
        highlight=False,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
    )
    # Written by ourselves, since rich would end the process where a pipe is closed.
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def to_try(*words: str) -> str:
    """A command of this package as it can be typed here."""
    # In an environment that is not activated, a shell does not find `coca` by its name.
    started_as = sys.argv[0]
    known = shutil.which("coca") or not os.access(started_as, os.X_OK)
    return shlex.join(["coca" if known else os.path.relpath(started_as), *words])


def tell_error(text: str) -> None:
    """Errors look the same wherever they come from: one sentence, or a line for each fault."""
    first, *more = text.strip().splitlines() or ["something failed and did not say why"]
    if more:
        first, more = f"{len(more) + 1} things are wrong", [first, *more]
    _to_stderr(f"error: {first}")
    for line in more:
        _to_stderr(f"  {line}")


def configure(*, quiet: bool, debug: bool) -> None:
    """Take the options of `coca` itself, and send what the package logs to stderr.

    Warnings are told; with `debug` everything, with `quiet` only errors.
    """
    _quiet.set(quiet)
    logger = logging.getLogger("coca")
    logger.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    logger.handlers = [_Handler()]


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _to_stderr(f"{record.levelname.lower()}: {self.format(record)}")


def _to_stderr(line: str) -> None:
    # What `sys.stderr` is now: an open progress bar puts something in its place that writes above.
    sys.stderr.write(f"{line}\n")
