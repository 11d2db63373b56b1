"""Console output: results on stdout, everything else on stderr."""

import functools
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any, ParamSpec

import typer

from coca.core.progress import ProgressMaker, show_progress, silent

PIPE_WIDTH = 200
"""Width of a table outside a terminal, in columns: wide enough for unbroken paths."""

P = ParamSpec("P")

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@dataclass(frozen=True)
class Console:
    """Output of one command, as text or as JSON; a parameter of this type is the option --json."""

    quiet: bool = field(default_factory=_quiet.get)
    """Print results and errors only. Default: as the global option `--quiet`."""
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON and nothing else.")
    ] = False
    """Print the result as JSON, without the text output."""

    @property
    def progress(self) -> ProgressMaker:
        """Factory of progress bars: a bar on a terminal, else a line every ten seconds."""
        if self.quiet or self.json:
            return silent
        from coca.cli.progress import LiveBars, lines

        return LiveBars() if sys.stderr.isatty() else lines

    def say(self, text: str) -> None:
        """Print a line of the result; nothing with --json."""
        if not self.json:
            typer.echo(text)

    def note(self, text: str) -> None:
        """Print a status line to stderr; nothing with --quiet or --json."""
        if not (self.quiet or self.json):
            _to_stderr(text)

    def complain(self, text: str) -> None:
        """Print an error that does not stop the command."""
        print_error(text)

    def emit(self, value: Any) -> None:
        """Print the result as JSON; nothing without --json."""
        if self.json:
            typer.echo(json.dumps(value, indent=2))

    def table(
        self, header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
    ) -> None:
        """Print a table of the result; nothing with --json."""
        if self.json:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in header:
            table.add_column(
                name, justify="right" if name in right else "left", overflow="fold", min_width=4
            )
        for row in rows:
            table.add_row(*map(_printable, row))
        # Captions and paths are plain text: "[red]" in them is not markup.
        console = RichConsole(
            markup=False,
            emoji=False,
            highlight=False,
            width=None if sys.stdout.isatty() else PIPE_WIDTH,
        )
        # Captured and written by typer, since rich ends the process if a pipe is closed.
        with console.capture() as capture:
            console.print(table)
        typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def shows_progress(command: Callable[P, None]) -> Callable[P, None]:
    """Show the progress of a command, as its `Console` displays it."""

    @functools.wraps(command)
    def shown(*arguments: P.args, **options: P.kwargs) -> None:
        given = (*arguments, *options.values())
        (console,) = (value for value in given if isinstance(value, Console))
        with show_progress(console.progress):
            command(*arguments, **options)

    return shown


def _printable(text: str) -> str:
    """Escape non-printable characters, such as line breaks and terminal codes in captions."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


@contextmanager
def resumable() -> Iterator[None]:
    """Report, when Ctrl-C stops a command, that the same command resumes it."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped by Ctrl-C; the same command goes on from there") from None


def to_try(*words: str) -> str:
    """Return a suggested `coca` command line that works in this shell."""
    # If the environment is not activated, the shell does not find `coca` on its path.
    started_as = sys.argv[0]
    known = shutil.which("coca") or not os.access(started_as, os.X_OK)
    return shlex.join(["coca" if known else os.path.relpath(started_as), *words])


def print_error(text: str) -> None:
    """Print an error to stderr: one sentence, or a list with one line per problem."""
    first, *more = text.strip().splitlines() or ["the command failed without a message"]
    if more:
        first, more = f"{len(more) + 1} problems", [first, *more]
    _to_stderr(f"error: {first}")
    for line in more:
        _to_stderr(f"  {line}")


_MILVUS_LOGGERS = ("pymilvus", "pymilvus.decorators", "milvus_lite", "grpc._server")
"""Loggers that print a traceback for each exception that Milvus also raises or handles."""


def _drop(record: logging.LogRecord) -> bool:
    return False


def configure(*, quiet: bool, debug: bool) -> None:
    """Apply the global options, and send the log of the package to stderr.

    The level is WARNING; with `debug` DEBUG, with `quiet` ERROR. The loggers of Milvus are silenced
    without `debug`, since a command prints each error once.
    """
    _quiet.set(quiet)
    logger = logging.getLogger("coca")
    logger.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    logger.handlers = [_Handler()]
    for name in _MILVUS_LOGGERS:
        found = logging.getLogger(name)
        found.setLevel(logging.NOTSET if debug else logging.CRITICAL)
        # The later import of pymilvus resets the levels of its loggers, but not their filters.
        found.filters = [] if debug else [_drop]


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _to_stderr(f"{record.levelname.lower()}: {self.format(record)}")


def _to_stderr(line: str) -> None:
    # Names and messages may be of strangers, with codes that a terminal would obey.
    text = "\n".join(map(_printable, line.split("\n")))
    # Looked up at each call: an open progress bar replaces `sys.stderr` to write above itself.
    sys.stderr.write(f"{text}\n")
