import json
import logging
import sys
from pathlib import Path

import pytest

from coca.cli import console as room
from coca.cli.console import Console
from coca.cli.progress import LiveBars, lines
from coca.core.progress import silent

Captured = pytest.CaptureFixture[str]


def test_results_go_to_stdout_and_the_rest_to_stderr(capsys: Captured) -> None:
    console = Console()
    console.say("made x")
    console.note("packing")
    console.complain("y is bad")
    console.emit({"x": 1})
    assert capsys.readouterr() == ("made x\n", "packing\nerror: y is bad\n")


def test_json_leaves_out_every_message_for_people(capsys: Captured) -> None:
    console = Console(json=True)
    console.say("made x")
    console.note("packing")
    console.table(["a"], [["1"]])
    console.emit({"caption": "\u00e9"})
    out, errors = capsys.readouterr()
    assert json.loads(out) == {"caption": "\u00e9"}
    assert out.isascii()
    assert errors == ""


def test_an_error_without_a_message_is_still_reported(capsys: Captured) -> None:
    room.print_error("")
    assert capsys.readouterr().err.startswith("error: the command failed")


def test_a_table_keeps_brackets_and_long_paths_whole(capsys: Captured) -> None:
    path = "/a" * 60 + "/[bold]x:smile:.png"
    Console().table(["rank", "path"], [["1", path], ["12", "b"]], right=["rank"])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["rank", "path"]
    assert first.split() == ["1", path]
    assert second.startswith("  12")


def test_a_table_shows_what_would_command_the_terminal(capsys: Captured) -> None:
    Console().table(["caption"], [["a\n\x1b[2Jcat \udcff \u00e9"]])
    assert capsys.readouterr().out.splitlines()[1] == r"a\n\x1b[2Jcat \udcff \u00e9".replace(
        r"\u00e9", "\u00e9"
    )


def test_a_command_to_try_can_be_typed_here(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = cwd / "bin" / "coca"
    program.parent.mkdir()
    program.write_text("#!/bin/sh", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(cwd))
    assert room.to_try("search", "red car") == "bin/coca search 'red car'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert room.to_try("search", "x") == "coca search x"


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Console(quiet=True).progress is silent
    assert Console(json=True).progress is silent
    assert Console().progress is lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(Console().progress, LiveBars)


@pytest.mark.parametrize(
    ("quiet", "debug", "printed"),
    [
        (False, False, "warning: careful\nerror: broken\n"),
        (True, False, "error: broken\n"),
        (False, True, "debug: detail\nwarning: careful\nerror: broken\n"),
    ],
)
def test_log_messages_are_printed_as_the_options_ask(
    capsys: Captured, quiet: bool, debug: bool, printed: str
) -> None:
    room.configure(quiet=quiet, debug=debug)
    logger = logging.getLogger("coca.somewhere")
    logger.debug("detail")
    logger.warning("careful")
    logger.error("broken")
    assert capsys.readouterr().err == printed
    assert Console().quiet == quiet
    room.configure(quiet=False, debug=False)


@pytest.mark.parametrize("debug", [True, False])
def test_tracebacks_that_milvus_logs_are_shown_with_debug_only(
    debug: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("pymilvus", "pymilvus.decorators", "milvus_lite", "grpc._server", "coca")
    for logger in map(logging.getLogger, names):
        monkeypatch.setattr(logger, "level", logger.level)
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
        monkeypatch.setattr(logger, "filters", list(logger.filters))
    room.configure(quiet=False, debug=debug)
    for name in names[:-1]:
        # The import of pymilvus does so.
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).error("RPC error")
    assert len(caplog.records) == (4 if debug else 0)
