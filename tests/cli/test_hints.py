import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from coca.cli.app import app
from coca.cli.hints import RIGHT
from tiny_cli import Run

KEYS = "use --keys FILE, or the environment variable COCA_API_KEYS"
ROOT: Any = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("find dog", "no such command 'find'; use: coca search"),
        ("Find dog", "no such command 'Find'; use: coca search"),
        ("collection ls", "no such command 'ls'; use: coca collection list"),
        ("help", "no such command 'help'; use: coca --help"),
        ("searchh", "no such command 'searchh'. Did you mean 'search'?; see `coca --help`"),
        ("data ask", "no such command 'ask'; see `coca data --help`"),
        ("search dog --top 3", "no such option: --top; use --limit"),
        ("answer x.jpg why -n 3", "no such option: -n; use --top"),
        ("search dog --min_score 2", "no such option: --min_score; use --min-score"),
        ("search dog --limt 3", "no such option: --limt; did you mean --limit?"),
        ("search dog --metric l2", "no such option: --metric; see `coca search --help`"),
        ("serve x.db", "got unexpected extra argument(s) (x.db); see `coca serve --help`"),
        ("serve --api-key s", f"no such option: --api-key; {KEYS}"),
        ("serve --password s", f"no such option: --password; {KEYS}"),
        (
            "serve --token s --uri x.db",
            "--token is of a Milvus server, and x.db is a file, so the service would be open: set "
            "COCA_API_KEYS or pass --keys, or leave --token and COCA_TOKEN out",
        ),
        ("search dog --limit", "option '--limit' requires an argument"),
        (
            "pretrain --lr 1",
            "no such option: --lr; settings are given as FIELD=VALUE; `coca config keys` lists "
            "them",
        ),
    ],
)
def test_a_wrong_call_is_answered_with_one_sentence(run: Run, typed: str, answer: str) -> None:
    assert run(*shlex.split(typed), code=2).stderr == f"error: {answer}\n"


@pytest.mark.parametrize("command", ["search", "recommend"])
def test_a_collection_is_not_taken_for_a_query(run: Run, cwd: Path, command: str) -> None:
    Path("x.db").mkdir()
    stderr = run(command, "x.db", "a dog", code=2).stderr
    assert stderr == "error: x.db is a collection: use --uri x.db\n"
    assert "is a collection:" not in run(command, "x", "--uri", "x.db", code=1).stderr


def test_words_where_files_are_expected_are_labels_or_texts(run: Run, images: list[str]) -> None:
    stderr = run("classify", images[0], "mug", "cat", code=2).stderr
    assert stderr.endswith(f"if it is a label: coca classify {images[0]} --labels mug,cat\n")
    assert run("embed", "a", "dog", code=2).stderr.endswith(": coca embed --text 'a dog'\n")


def test_the_table_replaces_wrong_names_by_right_names() -> None:
    assert len(RIGHT) <= 60
    options = {"--help"}
    groups = [ROOT]
    for group in groups:
        options |= {name for one in group.params for name in one.opts}
        groups += getattr(group, "commands", {}).values()
    for wrong, replacement in RIGHT.items():
        assert wrong not in ROOT.commands
        command = ROOT
        for word in replacement.replace("|", " ").split():
            if word.startswith("--"):
                assert word in options
            elif word != "onnx":
                command = command.commands[word]
