"""Entry point of the command line `coca`: commands, global options and exit codes.

0    success
1    failure, or some input was unreadable and skipped
2    usage or configuration error: an unknown option, an invalid setting, no model
130  interrupted by Ctrl-C
141  the pipe that reads the output was closed
"""

import gc
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from coca import __version__
from coca.cli.commands import LazyCommands, plugin_command, summaries
from coca.cli.console import configure, print_error
from coca.cli.hints import usage
from coca.core.errors import CocaError, ConfigError, MissingExtraError
from coca.core.registry import load_plugin_file

FAILED, WRONG_CALL, STOPPED, UNREAD = 1, 2, 130, 141
NEEDS_TORCH = ("einops", "torch", "torchvision")
"""Packages of the extra `torch`."""
_ANYWHERE = ("--debug", "--quiet")
_RARE_COLLECTION = (50_000, 20, 100)
"""Thresholds of Python's garbage collector, which are (700, 10, 10) by default."""


class CommandGroup(TyperGroup):
    """The root command group; it turns every error into one message and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = LazyCommands()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the global options, which are accepted at any position, before the others."""
        args, plugins = _without_plugins(args)
        end = args.index("--") if "--" in args else len(args)
        first = [name for name in _ANYWHERE if name in args[:end]]
        rest = [arg for arg in args[:end] if arg not in _ANYWHERE] + args[end:]
        try:
            return super().parse_args(ctx, [*plugins, *first, *rest] or ["--help"])
        except Exception as error:
            raise _ended(error, debug="--debug" in first) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands, with those that plug-ins add."""
        return list(summaries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; plug-ins are looked at for unknown names only."""
        return self.commands.get(cmd_name) or plugin_command(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Format the help from summaries: importing all commands takes as long as the help."""
        commands, self.commands = self.commands, summaries()
        super().format_help(ctx, formatter)
        self.commands = commands

    def invoke(self, ctx: Any) -> Any:
        """Run a command and turn errors into exit codes."""
        try:
            result = super().invoke(ctx)
            # Flushed here, since an error of a closed pipe cannot be caught at process exit.
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            raise _ended(error, debug=bool(ctx.params.get("debug"))) from None
        return result


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"coca {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def coca(
    debug: Annotated[
        bool, typer.Option("--debug", help="Print tracebacks, and log all levels to stderr.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print results and errors only, no progress.")
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            metavar="FILE.py",
            help="Python file with a plug-in of your own, such as a loss, a task or a command.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Search, caption and classify images with one image-text model.

    --debug, --quiet and --plugin are accepted at any position.
    """
    configure(quiet=quiet, debug=debug)
    for path in plugin or []:
        load_plugin_file(path)


def _without_plugins(args: list[str]) -> tuple[list[str], list[str]]:
    """Split the options `--plugin FILE` from the other arguments."""
    others: list[str] = []
    plugins: list[str] = []
    rest = list(args)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name != "--plugin":
            others.append(word)
        else:
            plugins += [word] if equals or not rest else [word, rest.pop(0)]
    return [*others, *rest], plugins


SPIN_COUNT = 10_000
"""Turns, about half a millisecond, that an idle thread of torch waits on its core for the next
operation. The default of libgomp, 300,000, is longer than a time slice: with other work on the
machine a waiting thread then takes the core that the working one needs, and small models become up
to seven times as slow (benchmarks/lab-notes.md). libgomp reads it when torch is imported."""


def main() -> None:
    """Run the command line and exit the process."""
    # Imports create 100,000 objects and no garbage; collections during them would take 0.3 s.
    gc.set_threshold(*_RARE_COLLECTION)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text in the terminal's encoding.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="coca")
    except SystemExit as end:
        leave_process_group(end.code)
        # Skips the garbage collection of all modules at exit, which takes 0.7 s.
        gc.freeze()
        raise


def leave_process_group(code: int | str | None) -> None:
    """Exit at once if this process is part of a process group; otherwise do nothing.

    During Python's slow shutdown, threads of the process group sometimes abort the process.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    from coca.train.distributed.context import DistributedContext, lost_ranks_reported

    if code in (None, 0, STOPPED):
        world = DistributedContext.current()
        try:
            # The main rank may still evaluate the model; all ranks wait for it before they exit.
            world.broadcast_from_main(lambda: None)
        except CocaError as error:
            print_error(str(error))
            code = 1
        else:
            # All work is done: a rank that has closed its connection has only exited earlier.
            with suppress(CocaError), lost_ranks_reported(world):
                world.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _ended(error: BaseException, *, debug: bool) -> typer.Exit:
    """Print the error that ended a command, and return its exit code."""
    if isinstance(error, typer.Exit):
        return error
    if debug and not isinstance(error, BrokenPipeError):
        traceback.print_exception(error)
    match error:
        case BrokenPipeError():
            # Otherwise Python writes the rest of the buffer at exit, and reports the error again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return typer.Exit(UNREAD)
        case KeyboardInterrupt() | typer.Abort():
            print_error(str(error) or "stopped by Ctrl-C")
            return typer.Exit(STOPPED)
        case ConfigError():
            print_error(str(error))
            return typer.Exit(WRONG_CALL)
        case CocaError():
            print_error(str(error))
            return typer.Exit(FAILED)
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] in NEEDS_TORCH:
            print_error(
                f"{MissingExtraError('torch', 'torch')}; without it, the model in this package and "
                "folders of `coca export --format onnx` run on ONNX Runtime"
            )
            return typer.Exit(FAILED)
    # Errors of the parser; their class has no public name.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        print_error(usage(error))
        return typer.Exit(error.exit_code)
    reason = next(iter(str(error).splitlines()), "")
    print_error(
        f"something unexpected happened ({type(error).__name__}{f': {reason}' if reason else ''}); "
        "run the command again with --debug to see where"
    )
    return typer.Exit(FAILED)


if __name__ == "__main__":
    main()
