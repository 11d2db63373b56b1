"""The command `coca`: its commands, its own options, and how each of them may end.

0    done
1    failed, or something was left out because it is bad
2    called wrongly: an unknown option, a wrong setting, a model that is not named
130  stopped by Ctrl-C
141  nobody reads the output any more
"""

import gc
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from coca import __version__
from coca.cli import (
    answer,
    caption,
    classes,
    collections,
    config,
    data,
    demo,
    detect,
    embed_shards,
    evaluate,
    index,
    predict,
    release,
    search,
    train,
    uses,
    weights,
)
from coca.cli.console import configure, tell_error
from coca.core.errors import CocaError, ConfigError

FAILED, WRONG_CALL, STOPPED, UNREAD = 1, 2, 130, 141
_ANYWHERE = ("--debug", "--quiet")
_RARE_COLLECTION = (50_000, 20, 100)
"""Thresholds of Python's garbage collector, which are (700, 10, 10) by default."""


class Door(TyperGroup):
    """The root of all commands, where every error ends as a sentence and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options of `coca` itself, which may also stand behind those of a command."""
        end = args.index("--") if "--" in args else len(args)
        first = [name for name in _ANYWHERE if name in args[:end]]
        rest = [arg for arg in args[:end] if arg not in _ANYWHERE] + args[end:]
        try:
            return super().parse_args(ctx, [*first, *rest] or ["--help"])
        except Exception as error:
            raise _ended(error, debug="--debug" in first) from None

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            result = super().invoke(ctx)
            # Here and not at the end of the process, where nobody could catch a closed pipe.
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            raise _ended(error, debug=bool(ctx.params.get("debug"))) from None
        return result


app = typer.Typer(
    cls=Door,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRAINING, _MODELS, _SEARCH, _REST = "Training", "Using a model", "Search", "Data and settings"
app.command(rich_help_panel=_TRAINING)(train.pretrain)
app.command(rich_help_panel=_TRAINING)(train.finetune)
app.command(rich_help_panel=_TRAINING)(evaluate.evaluate)
app.command(rich_help_panel=_TRAINING)(demo.demo)
app.command(hidden=True)(release.release)
app.command(rich_help_panel=_MODELS)(predict.info)
app.command(rich_help_panel=_MODELS)(predict.embed)
app.command(rich_help_panel=_MODELS)(caption.caption)
app.command(rich_help_panel=_MODELS)(predict.classify)
app.command(rich_help_panel=_MODELS)(detect.detect)
app.command(rich_help_panel=_MODELS)(answer.answer)
app.command(rich_help_panel=_MODELS)(weights.convert)
app.command(rich_help_panel=_MODELS)(weights.export)
app.command(rich_help_panel=_SEARCH)(index.index)
app.command(rich_help_panel=_SEARCH)(embed_shards.embed_shards)
app.command(rich_help_panel=_SEARCH)(search.search)
app.command(rich_help_panel=_SEARCH)(uses.recommend)
app.command(rich_help_panel=_SEARCH)(uses.mine)
app.command(rich_help_panel=_SEARCH)(uses.duplicates)
app.add_typer(classes.app, name="classes", rich_help_panel=_SEARCH)
app.command(rich_help_panel=_SEARCH)(collections.migrate)
app.command(rich_help_panel=_SEARCH)(collections.reindex)
app.add_typer(collections.app, name="collection", rich_help_panel=_SEARCH)
app.add_typer(data.app, name="data", rich_help_panel=_REST)
app.add_typer(config.app, name="config", rich_help_panel=_REST)


def _tell_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"coca {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def coca(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and log everything to stderr.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print results and errors only; no progress.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """CoCa: search, captions and recognition with one image-text model.

    --debug and --quiet may stand anywhere.
    """
    configure(quiet=quiet, debug=debug)


def main() -> None:
    """Run the command line of this process."""
    # Imports make a hundred thousand objects and no garbage; to look for some takes 0.3 s of them.
    gc.set_threshold(*_RARE_COLLECTION)
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text in the terminal's encoding.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="coca")
    except SystemExit as end:
        train.leave(end.code)
        # At its end Python looks for garbage among all modules, which takes 0.7 s; now it does not.
        gc.freeze()
        raise


def _ended(error: BaseException, *, debug: bool) -> typer.Exit:
    """Tell why a command ended, and with which code."""
    if isinstance(error, typer.Exit):
        return error
    if debug and not isinstance(error, BrokenPipeError):
        traceback.print_exception(error)
    match error:
        case BrokenPipeError():
            # Python would try to write the rest when it ends, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return typer.Exit(UNREAD)
        case KeyboardInterrupt() | typer.Abort():
            tell_error("stopped by Ctrl-C")
            return typer.Exit(STOPPED)
        case ConfigError():
            tell_error(str(error))
            return typer.Exit(WRONG_CALL)
        case CocaError():
            tell_error(str(error))
            return typer.Exit(FAILED)
    # The parser's own errors, whose class is public under no name.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        tell_error(_usage(error))
        return typer.Exit(error.exit_code)
    reason = next(iter(str(error).splitlines()), "")
    tell_error(
        f"something unexpected happened ({type(error).__name__}{f': {reason}' if reason else ''}); "
        "run the command again with --debug to see where"
    )
    return typer.Exit(FAILED)


def _usage(error: Any) -> str:
    message = str(error.format_message()).strip().removesuffix(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "coca"
    return f"{message[:1].lower()}{message[1:]}; `{command} --help` tells more"


if __name__ == "__main__":
    main()
