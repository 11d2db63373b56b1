import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

import coca
from coca.cli.app import app
from coca.cli.commands import PLUGIN_PANEL, summaries
from coca.cli.options import images
from coca.core.errors import CocaError, ConfigError
from coca.core.installation import pip_install
from tiny_cli import Run, RunJson, run_traced


def coca_process(*arguments: str, **settings: object) -> "subprocess.Popen[str]":
    """The command in a process of its own, as a shell starts it."""
    command, pipe = [sys.executable, "-m", "coca.cli.app", *arguments], subprocess.PIPE
    # Whoever starts the tests in the background, without job control, has it ignored. What handles
    # a signal ends at exec; Python code between fork and exec could end in an abort of gRPC.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **settings)  # type: ignore[call-overload]
    signal.signal(signal.SIGINT, before)
    return process


def test_the_help_imports_nothing_heavy() -> None:
    output, _, modules = run_traced("--help")
    heavy = {"torch", "numpy", "pydantic", "PIL", "pymilvus", "rich.progress", "tokenizers", "yaml"}
    assert heavy & modules == set()
    assert "pretrain" in output


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_idle_threads_leave_their_core_to_other_work(given: dict[str, str], spins: str) -> None:
    # libgomp reads the variable when torch is imported, so it is set before.
    program = (
        "import atexit, os, sys; from coca.cli.app import main; sys.argv = ['coca', '--version']; "
        "atexit.register(lambda: print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))); "
        "main()"
    )
    kept = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {name: it for name, it in os.environ.items() if name not in kept} | given
    command = [sys.executable, "-c", program]
    output = subprocess.check_output(command, env=environment, text=True)
    assert output.splitlines()[-1] == f"False {spins}"


def test_a_summary_of_the_help_is_that_of_its_command() -> None:
    root: Any = typer.main.get_command(app)
    for name, summary in summaries().items():
        if summary.rich_help_panel != PLUGIN_PANEL:
            command = root.commands[name]
            assert (summary.help, summary.rich_help_panel) == (
                " ".join(command.help.partition("\n\n")[0].split()),
                command.rich_help_panel,
            )


def test_the_version_is_reported(run: Run) -> None:
    assert run("--version").stdout == f"coca {coca.__version__}\n"


def test_nothing_asked_for_is_answered_by_help(run: Run) -> None:
    assert run().stdout == run("--help").stdout == run("-h").stdout


@pytest.mark.parametrize(
    ("error", "code", "output"),
    [
        (CocaError("the roof leaks"), 1, "error: the roof leaks\n"),
        (ConfigError("one is wrong"), 2, "error: one is wrong\n"),
        (
            ConfigError("one is wrong\nso is two"),
            2,
            "error: 2 problems\n  one is wrong\n  so is two\n",
        ),
        (
            ValueError("odd\nlong story"),
            1,
            "error: something unexpected happened (ValueError: odd); "
            "run the command again with --debug to see where\n",
        ),
        (
            AssertionError(),
            1,
            "error: something unexpected happened (AssertionError); "
            "run the command again with --debug to see where\n",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            f"error: torch is not installed: {pip_install('torch')}; without it, "
            "the model in this package and folders of `coca export --format onnx` run on ONNX "
            "Runtime\n",
        ),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C\n"),
        (KeyboardInterrupt("stopped by Ctrl-C: 3"), 130, "error: stopped by Ctrl-C: 3\n"),
    ],
)
def test_every_error_ends_as_a_sentence_and_a_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, output: str
) -> None:
    def fail(given: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(images, "find", fail)
    assert run("caption", "x.png", code=code).stderr == output
    with_debug = run("caption", "x.png", "--debug", code=code).stderr
    assert with_debug.startswith("Traceback")
    assert with_debug.endswith(output)


@pytest.mark.slow
def test_a_plugin_file_is_loaded_at_any_position(run: Run, cwd: Path) -> None:
    Path("my_task.py").write_text(
        "from coca.tasks import TASKS\n\n\n@TASKS.register('task_x1')\ndef task_x1(*args):\n"
        "    pass\n"
    )
    call = ["evaluate", "m", "task_x2"]
    # In processes of their own, since what a plugin registers stays.
    for words in (["--plugin", "my_task.py", *call], [*call, "--plugin=my_task.py"]):
        process = coca_process(*words, cwd=cwd)
        assert "did you mean 'task_x1'" in process.communicate()[1]
        assert process.returncode == 2
    assert "absent.py is not a Python" in run("info", "--plugin", "absent.py", code=2).stderr


def test_options_behind_two_dashes_are_left_to_the_command(run: Run, model: str) -> None:
    # A file of that name is missing, which is the command's own business.
    assert "--debug" in run("caption", "-m", model, "--", "--debug", code=1).stderr


@pytest.mark.slow
def test_a_process_ends_with_the_code_of_its_error(cwd: Path) -> None:
    for arguments, code in ((["pretrain", "absent.yaml"], 2), (["info", "."], 1)):
        process = coca_process(*arguments, cwd=cwd)
        output, errors = process.communicate()
        assert process.returncode == code
        assert output == ""
        assert errors.startswith("error: ")
        assert "Traceback" not in errors


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process has not handled a signal yet; false where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.slow
def test_ctrl_c_ends_a_long_command_with_a_sentence(
    cwd: Path, model: str, images: list[str]
) -> None:
    # Endless work: the reader of a pipe without a writer waits until it is stopped.
    os.mkfifo("labels.txt")
    process = coca_process("classify", images[0], "--labels", "labels.txt", "-m", model, cwd=cwd)
    writer = os.open("labels.txt", os.O_WRONLY)  # returns when the command has begun to read
    process.send_signal(signal.SIGINT)
    # A signal between the reader's open and its read would leave it waiting for ever without this
    # end of the file. It comes when the signal has been handled.
    while is_pending(process.pid, signal.SIGINT):
        time.sleep(0.001)
    os.close(writer)
    errors = process.communicate()[1]
    assert errors == "error: stopped by Ctrl-C\n"
    assert process.returncode == 130


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(cwd: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "coca.cli.app", "info", "coca_tiny"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=cwd,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_a_file_name_that_is_no_text_can_be_printed(
    cwd: Path, run_json: RunJson, model: str
) -> None:
    name = os.fsdecode(b"\xff.png")
    process = coca_process("info", name, cwd=cwd)
    assert "error: '\\udcff.png' is neither" in process.communicate()[1]
    assert process.returncode == 2
    assert run_json("embed", name, "-m", model, code=1)["items"][0]["path"] == name
